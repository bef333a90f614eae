#!lua flags=allow-oom
-- Move a message from flight to the dead letters. Only who still holds it can, so it happens once.
-- KEYS: in flight, deadlines, dead
-- ARGV: tag, record
-- Returns 1, or 0 when it was not in flight any more.
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
