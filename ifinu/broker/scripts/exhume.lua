#!lua flags=allow-oom
-- Replay one dead letter. A record that is gone was replayed or purged already, so nothing is pushed twice.
-- KEYS: dead, ready, claim (as in bury)
-- ARGV: record, message
-- Returns 1, or 0 when the record was gone.
redis.call('LLEN', KEYS[2]) -- of a wrong type it fails here, before the record has left
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
-- Who replays has decided that it may be sent; a claim that ended with this letter must not stop it.
if KEYS[3] then
  local state = redis.call('HGET', KEYS[3], 'state')
  if state == 'dead' or state == 'unknown' then
    redis.call('DEL', KEYS[3])
  end
end
return 1
