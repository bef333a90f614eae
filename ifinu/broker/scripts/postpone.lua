#!lua flags=allow-oom
-- Move a message from flight to the delayed, as what it becomes: its retry. The id's claim waits for that one.
-- KEYS: in flight, deadlines, delayed, claim
-- ARGV: tag, message, due (epoch ms)
-- Returns 1, or 0 when the message was not in flight any more: then it is on the queue again, and needs no second copy.
redis.call('ZCARD', KEYS[3]) -- a key of a wrong type fails here, before the message has left its place
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
if redis.call('HGET', KEYS[4], 'tag') == ARGV[1] then
  redis.call('HSET', KEYS[4], 'state', 'waiting')
end
return 1
