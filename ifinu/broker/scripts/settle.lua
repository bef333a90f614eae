#!lua flags=allow-oom
-- A send came to its end: acknowledge the message and record the outcome, in one step.
-- KEYS: in flight, deadlines, claim
-- ARGV: tag, state, the gateway's message id, ttl (ms)
-- Returns 1, or 0 when the message was not in flight any more; the outcome is true and recorded all the same.
redis.call('HSET', KEYS[3], 'state', ARGV[2], 'key_id', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
