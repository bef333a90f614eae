#!lua flags=allow-oom
-- Hold a number: it sends nothing before a time. A hold for another reason that lasts longer, or as long, stays; but one
-- for a closed connection yields to one that lasts as long, since the end of the outage must not release that.
-- KEYS: number's hash
-- ARGV: number, until (epoch ms), reason, longest hold (ms; absent if it does not grow): one right after the last, for the
--       same reason, is twice as long
-- Returns {until, reason} of the hold that is in force; {'0', ''} if the number is not registered.
-- uses: numbers
local was = redis.call('HMGET', KEYS[1], 'presa', 'motivo', 'par', 'espera')
if not was[3] then
  return {'0', ''}
end
local till, goes_on = tonumber(was[1]) or 0, false
if ARGV[4] then
  local wait, last = ARGV[2] - now, tonumber(was[4]) or 0
  if was[2] == ARGV[3] and till <= now and now - till < last then -- its probe failed
    wait, goes_on = math.max(wait, math.min(2 * last, tonumber(ARGV[4]))), true
  end
  ARGV[2] = text(now + wait)
  redis.call('HSET', KEYS[1], 'espera', text(wait))
end
if till <= now and not goes_on then
  redis.call('HSET', KEYS[1], 'presa_desde', text(now))
end
local lasts = till > tonumber(ARGV[2]) or (till == tonumber(ARGV[2]) and was[2] ~= 'desconectado')
if till > now and lasts and was[2] ~= ARGV[3] then
  return {text(till), was[2] or ''}
end
redis.call('HSET', KEYS[1], 'presa', ARGV[2], 'motivo', ARGV[3])
turn('ifinu:fila:whatsapp', ARGV[1], ARGV[2])
return {ARGV[2], ARGV[3]}
