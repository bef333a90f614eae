#!lua flags=allow-oom
-- Cancel a notification: before it came, while it waits, or while it is looked up.
-- KEYS: claim, events
-- ARGV: id, ttl (ms), data of the event `cancelled`
-- Returns {state before ('' for none; `sending`, `sent` and other ends do not change), ids of the messages that followed
-- it as JSON ('' for none)}. Messages that have not followed yet never do, even if it was too late for the notification.
local was = redis.call('HMGET', KEYS[1], 'state', 'cancelled', 'codes')
local state = was[1] or ''
if state == 'sending' then
  redis.call('HSET', KEYS[1], 'codes_off', '1')
end
if state ~= '' and state ~= 'waiting' and state ~= 'dead' and state ~= 'unknown' then
  return {state, was[3] or ''}
end
if not was[2] then
  redis.call('HSET', KEYS[1], 'cancelled', '1')
  if state == '' then
    redis.call('HSET', KEYS[1], 'state', 'cancelled')
  end
  if state ~= 'unknown' and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
  if state ~= 'unknown' then
    redis.call('XADD', KEYS[2], '*', 'event', 'cancelled', 'id', ARGV[1], 'data', ARGV[3])
  end
end
return {state, ''}
