#!lua flags=allow-oom
-- End the hold of a number, so that the next fetch looks at it.
-- KEYS: number's hash
-- ARGV: number, reason ('' for any)
-- Returns 1, or 0 if it is not held, or for another reason.
-- uses: numbers
local was = redis.call('HMGET', KEYS[1], 'presa', 'motivo')
if not was[1] or (ARGV[2] ~= '' and was[2] ~= ARGV[2]) then
  return 0
end
redis.call('HDEL', KEYS[1], 'presa', 'motivo', 'presa_desde', 'desviada')
turn('ifinu:fila:whatsapp', ARGV[1], now)
return tonumber(was[1]) > now and 1 or 0
