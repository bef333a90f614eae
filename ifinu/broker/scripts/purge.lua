#!lua flags=allow-oom
-- Delete messages that a purge has set aside, and end the claims that waited for them: an id that was certainly not sent
-- is free again, one that may have been sent stays in doubt.
-- KEYS: set aside (a list, or a sorted set), events, unknown, then the claim of each message whose id could be read
-- ARGV: per message, from the front: its SHA-1, its id ('' if unreadable), its token ('' for a first message), data of its
--       event
-- Returns {number deleted, ids in doubt…}; fewer than given if another purge deletes here at the same time.
local sorted = redis.call('TYPE', KEYS[1]).ok == 'zset'
local last = #ARGV / 4 - 1
local there = sorted and redis.call('ZRANGE', KEYS[1], 0, last) or redis.call('LRANGE', KEYS[1], 0, last)
redis.call('XLEN', KEYS[2]) -- keys of a wrong type fail here, before anything has changed
redis.call('ZCARD', KEYS[3])
local out, written, claims = {0}, {}, 3

local function write(event, id, data)
  if not written[event .. ' ' .. id] then -- the copies of one message are one event
    written[event .. ' ' .. id] = true
    redis.call('XADD', KEYS[2], '*', 'event', event, 'id', id, 'data', data)
  end
end

local function doubt(claim, since, id, data)
  redis.call('HSET', claim, 'state', 'unknown')
  redis.call('PERSIST', claim) -- until a person has decided
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[3], 'NX', since or time[1] * 1000, id)
  out[#out + 1] = id
  write('unknown', id, data)
end

for i, message in ipairs(there) do
  local digest, id, token, data = ARGV[4 * i - 3], ARGV[4 * i - 2], ARGV[4 * i - 1], ARGV[4 * i]
  if redis.sha1hex(message) ~= digest then
    break
  end
  out[1] = i
  if id ~= '' then
    claims = claims + 1
    local claim = KEYS[claims]
    local was = redis.call('HMGET', claim, 'state', 'token', 'tag', 'in_flight', 'cancelled', 'resent', 'since')
    local state, tag, home, cancelled, resent, since = was[1], was[3], was[4], was[5], was[6], was[7]
    local expected = token ~= '' and was[2] == token
    local orphaned = tag and tag ~= '' and redis.call('HEXISTS', home, tag) == 0
    if not state then
      write('unqueued', id, data)
    elseif state == 'waiting' and expected and resent then -- the last send did not take place, the first may have
      doubt(claim, since, id, data)
    elseif state == 'waiting' and expected and cancelled then -- a later message with the id is cancelled too
      redis.call('HSET', claim, 'state', 'cancelled')
      write('cancelled', id, data)
    elseif state == 'waiting' and expected then
      redis.call('DEL', claim)
      write('unqueued', id, data)
    elseif (state == 'unknown' and (expected or orphaned)) or (state == 'sending' and orphaned) then
      doubt(claim, since, id, data)
    elseif state == 'dead' and cancelled then -- its dead letter was replayed, which does not undo the cancellation
      write('cancelled', id, data)
    elseif state == 'dead' and token ~= '' then -- a second message with the id, which was deferred: it ends as the first
      write('unqueued', id, (string.gsub(data, '}%s*$', ',"first":"dead"}')))
    end -- else it is a second message: the claim belongs to the first
  end
end
if out[1] > 0 and sorted then
  redis.call('ZPOPMIN', KEYS[1], out[1])
elseif out[1] > 0 then
  redis.call('LPOP', KEYS[1], out[1])
end
return out
