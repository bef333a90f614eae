#!lua flags=allow-oom
-- Lift a person's opt-out from a tenant.
-- KEYS: opt-outs of the tenant, events
-- ARGV: pseudonym, data of the event
-- Returns 1, or 0 if there was no opt-out.
redis.call('XLEN', KEYS[2]) -- a key of a wrong type fails here, before anything has changed
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'event', 'optout', 'id', '', 'data', ARGV[2])
return 1
