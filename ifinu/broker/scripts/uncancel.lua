#!lua flags=allow-oom
-- Withdraw the cancellation of a notification, unless it has ended meanwhile.
-- KEYS: claim, events
-- ARGV: id, data of the event `uncancelled`
-- Returns {1 if it was withdrawn, state before ('' for none)}
local was = redis.call('HMGET', KEYS[1], 'state', 'cancelled', 'since')
local state = was[1] or ''
if not was[2] then
  return {0, state}
elseif state == 'cancelled' and not was[3] then
  redis.call('DEL', KEYS[1]) -- it held nothing but the cancellation
elseif state == 'waiting' or state == 'dead' or state == 'unknown' then
  redis.call('HDEL', KEYS[1], 'cancelled')
else
  return {0, state} -- after a try, `cancelled` may be the end of a send that reached the phone
end
if state ~= 'unknown' then
  redis.call('XADD', KEYS[2], '*', 'event', 'uncancelled', 'id', ARGV[1], 'data', ARGV[2])
end
return {1, state}
