#!lua flags=allow-oom
-- Call a notification off: before it came, while it waits, or while it is looked up.
-- KEYS: claim, events
-- ARGV: id, ttl (ms), data of the event `cancelled`
-- Returns the state before ('' for none); `sending`, `sent` and what ended otherwise are left as they are.
local was = redis.call('HMGET', KEYS[1], 'state', 'cancelled')
local state = was[1] or ''
if state ~= '' and state ~= 'waiting' and state ~= 'dead' and state ~= 'unknown' then
  return state
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
return state
