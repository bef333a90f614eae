#!lua flags=allow-oom
-- Hold a number: it sends nothing before a time. A hold for another reason that lasts longer stays.
-- KEYS: number's hash
-- ARGV: number, until (epoch ms), reason
-- Returns {until, reason} of the hold that is in force; {'0', ''} if the number is not registered.
-- uses: numbers
local was = redis.call('HMGET', KEYS[1], 'presa', 'motivo', 'par')
if not was[3] then
  return {'0', ''}
end
local till = tonumber(was[1]) or 0
if till > now and till > tonumber(ARGV[2]) and was[2] ~= ARGV[3] then
  return {text(till), was[2] or ''}
end
redis.call('HSET', KEYS[1], 'presa', ARGV[2], 'motivo', ARGV[3])
turn('ifinu:fila:whatsapp', ARGV[1], ARGV[2])
return {ARGV[2], ARGV[3]}
