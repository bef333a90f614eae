#!lua flags=allow-oom
-- Undo a claim under which nothing was sent, and whose message goes back to its queue unchanged.
-- KEYS: claim
-- ARGV: tag, id
-- Returns 1, or 0 if the claim is another message's.
local was = redis.call('HMGET', KEYS[1], 'tag', 'resent', 'state', 'counted')
if was[1] ~= ARGV[1] then
  return 0
end
if was[2] and was[3] == 'sending' then
  -- The first send stays in doubt; only the second did not take place.
  redis.call('HDEL', KEYS[1], 'resent')
  return redis.call('HSET', KEYS[1], 'state', 'unknown')
end
if was[4] and was[4] ~= '' then -- it does not count in this person's day
  redis.call('SREM', was[4], ARGV[2])
end
return redis.call('DEL', KEYS[1])
