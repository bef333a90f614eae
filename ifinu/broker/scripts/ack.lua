#!lua flags=allow-oom
-- Acknowledge a message that does not hold the claim of its id.
-- KEYS: in flight, deadlines, events (absent if no event is written)
-- ARGV: tag, event, id, data
-- Returns 1, or 0 if it was not in flight any more: its lease ran out and it went back to the queue.
redis.call('ZREM', KEYS[2], ARGV[1])
local was = redis.call('HDEL', KEYS[1], ARGV[1])
if KEYS[3] and was == 1 then
  redis.call('XADD', KEYS[3], '*', 'event', ARGV[2], 'id', ARGV[3], 'data', ARGV[4])
end
return was
