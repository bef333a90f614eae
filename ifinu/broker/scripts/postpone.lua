#!lua flags=allow-oom
-- Replace a message in flight by its retry or next look-up in the delayed set, for which the id's claim waits.
-- KEYS: in flight, deadlines, delayed, claim, unknown, events (absent if no event is written)
-- ARGV: tag, the new message, wait (ms), state of the claim (waiting | unknown), id, event, its data: an object to which
--       `due_ms` is added (these two are absent or '' if no event is written); number whose pace the message kept ('' or
--       absent for none), a random number from 0 to 1 for it, '1' if not the message but its number has to wait: then the
--       new one goes to the front of its lane
-- Returns 1, or 0 if the message was not in flight any more: then it is on the queue again, and needs no second copy;
-- 'freed' as in `ack`.
redis.call('ZCARD', KEYS[3]) -- a key of a wrong type fails here, before the message has left its place
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[1])
local was = redis.call('HMGET', KEYS[4], 'tag', 'since', 'resent', 'state', 'counted')
local due, freed
if ARGV[8] and ARGV[8] ~= '' then
  -- uses: numbers
  local queue = string.sub(KEYS[1], 1, -8)
  local went_out = ARGV[4] == 'unknown' and was[1] == ARGV[1] and was[4] == 'sending'
  local at
  at, freed = free(queue, ARGV[8], ARGV[1], went_out, ARGV[9])
  if at and ARGV[10] == '1' then
    local tenant = line(ARGV[2])
    aside(queue, ARGV[8], tenant, ARGV[2], at, true)
    due = text(at)
  end
end
if not due then
  local time = redis.call('TIME')
  due = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3])
  redis.call('ZADD', KEYS[3], due, ARGV[2])
end
if was[1] == ARGV[1] then
  redis.call('HSET', KEYS[4], 'state', ARGV[4], 'tag', '') -- from here on only its token identifies it
  if ARGV[4] == 'unknown' then
    redis.call('PERSIST', KEYS[4]) -- if it expired, the id would be sent again
    redis.call('ZADD', KEYS[5], 'NX', was[2], ARGV[5])
  else
    if not was[3] then
      redis.call('ZREM', KEYS[5], ARGV[5])
    end
    if was[5] and was[5] ~= '' then -- it counts in this person's day when it is sent
      redis.call('SREM', was[5], ARGV[5])
    end
  end
end
if KEYS[6] and (was[1] == ARGV[1] or not was[4] or was[4] == 'dead') then -- else the claim is another message's
  local data = string.gsub(ARGV[7], '}%s*$', (string.find(ARGV[7], '^{%s*}') and '' or ', ') .. '"due_ms": ' .. due .. '}')
  redis.call('XADD', KEYS[6], '*', 'event', ARGV[6], 'id', ARGV[5], 'data', data)
end
return freed and 'freed' or 1
