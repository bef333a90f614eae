#!lua flags=allow-oom
-- Replay one dead letter. If its record is gone it was replayed or purged already, so nothing is pushed twice.
-- KEYS: dead, ready, events, unknown, claim (as in bury)
-- ARGV: record, message, id, data of the event `replayed`
-- Returns 1, or 0 if the record was gone.
redis.call('LLEN', KEYS[2]) -- a key of a wrong type fails here, before the record has left
if redis.call('LINDEX', KEYS[1], -1) == ARGV[1] then -- `DeadLetters.clear` keeps it here; LREM would scan the list
  redis.call('RPOP', KEYS[1])
elseif redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
-- The operator has decided that it may be sent; a claim that ended with this letter must not stop it.
if KEYS[5] then
  local was = redis.call('HMGET', KEYS[5], 'state', 'cancelled', 'letter')
  local its_own = was[3] == redis.sha1hex(ARGV[1]) -- not that of a second message with the id
  if not was[1] or was[1] == 'dead' or (was[1] == 'unknown' and its_own) then
    if was[2] then
      redis.call('HSET', KEYS[5], 'state', 'dead') -- a replay does not undo a cancellation
    else
      redis.call('DEL', KEYS[5])
    end
    redis.call('ZREM', KEYS[4], ARGV[3])
    redis.call('XADD', KEYS[3], '*', 'event', 'replayed', 'id', ARGV[3], 'data', ARGV[4])
  end
end
return 1
