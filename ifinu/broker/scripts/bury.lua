#!lua flags=allow-oom
-- Move a message from flight to the dead letters. Only who still holds it can, so it happens once.
-- KEYS: in flight, deadlines, dead, claim (of the notification's id; absent where none could be read)
-- ARGV: tag, record, state that the claim ends in
-- Returns 1, or 0 when it was not in flight any more.
redis.call('LLEN', KEYS[3]) -- of a wrong type it fails here, before the message has left
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
-- A second message with this id may be buried while the first is being sent: the claim is the first one's.
if KEYS[4] and redis.call('HGET', KEYS[4], 'tag') == ARGV[1] then
  redis.call('HSET', KEYS[4], 'state', ARGV[3])
end
return 1
