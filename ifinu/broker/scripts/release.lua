#!lua flags=allow-oom
-- Nothing was sent under this claim and its message goes back as it is: as if it had not been claimed.
-- KEYS: claim
-- ARGV: tag
-- Returns 1, or 0 when the claim is another message's.
local was = redis.call('HMGET', KEYS[1], 'tag', 'resent', 'state')
if was[1] ~= ARGV[1] then
  return 0
end
if was[2] and was[3] == 'sending' then
  -- What went out before is in doubt as it was; only the second send did not take place.
  redis.call('HDEL', KEYS[1], 'resent')
  return redis.call('HSET', KEYS[1], 'state', 'unknown')
end
return redis.call('DEL', KEYS[1])
