#!lua flags=allow-oom
-- A message is done with.
-- KEYS: in flight, deadlines
-- ARGV: tag
-- Returns 1, or 0 when it was not in flight any more: its lease ran out and it went back to the queue.
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
