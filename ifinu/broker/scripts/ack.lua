#!lua flags=allow-oom
-- A message is done with, and the claim of its id is not its own.
-- KEYS: in flight, deadlines, events (absent where there is nothing to tell)
-- ARGV: tag, event, id, data
-- Returns 1, or 0 when it was not in flight any more: its lease ran out and it went back to the queue.
redis.call('ZREM', KEYS[2], ARGV[1])
local was = redis.call('HDEL', KEYS[1], ARGV[1])
if KEYS[3] and was == 1 then
  redis.call('XADD', KEYS[3], '*', 'event', ARGV[2], 'id', ARGV[3], 'data', ARGV[4])
end
return was
