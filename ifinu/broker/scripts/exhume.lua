#!lua flags=allow-oom
-- Replay one dead letter. A record that is gone was replayed or purged already, so nothing is pushed twice.
-- KEYS: dead, ready
-- ARGV: record, message
-- Returns 1, or 0 when the record was gone.
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
