#!lua flags=allow-oom
-- Move a message in flight to the end of its tenant's lane at another number. Nothing was sent.
-- KEYS: in flight, deadlines
-- ARGV: tag, number whose pace it kept ('' for none), the other number
-- Returns 1; 0 if it was not in flight any more; -1 if the other number is not registered, and nothing has changed.
if redis.call('SISMEMBER', 'ifinu:numeros', ARGV[3]) == 0 then
  return -1
end
local message = redis.call('HGET', KEYS[1], ARGV[1])
if not message then
  return 0
end
-- uses: numbers
local queue, tenant = string.sub(KEYS[1], 1, -8), line(message)
aside(queue, ARGV[3], tenant, message, now, false)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[2] ~= '' then
  free(queue, ARGV[2], ARGV[1], false)
end
return 1
