#!lua flags=allow-oom
-- Nothing was sent under this claim and its message goes back as it is: as if it had not been claimed.
-- KEYS: claim
-- ARGV: tag
-- Returns 1, or 0 when the claim is another message's.
if redis.call('HGET', KEYS[1], 'tag') ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
