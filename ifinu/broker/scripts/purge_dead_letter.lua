#!lua flags=allow-oom
-- Delete one dead letter for good.
-- KEYS: dead, events, unknown, claim (as in bury)
-- ARGV: record, id, data of the event `purged`
-- Returns 1, or 0 if the record was gone.
if redis.call('LINDEX', KEYS[1], -1) == ARGV[1] then -- as in replay
  redis.call('RPOP', KEYS[1])
elseif redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then
  return 0
end
if KEYS[4] then
  if redis.call('HGET', KEYS[4], 'letter') == redis.sha1hex(ARGV[1]) then -- not the claim of a second message with the id
    redis.call('ZREM', KEYS[3], ARGV[2])
    redis.call('PEXPIRE', KEYS[4], 604800000, 'NX') -- as in bury
  end
  redis.call('XADD', KEYS[2], '*', 'event', 'purged', 'id', ARGV[2], 'data', ARGV[3])
end
return 1
