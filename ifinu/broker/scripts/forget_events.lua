#!lua flags=allow-oom
-- Acknowledge entries of the stream, and delete those that every group has acknowledged.
-- KEYS: events
-- ARGV: group, then the entries' ids
-- Returns the number of entries deleted.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))

local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local oldest, oldest_ms, oldest_seq -- the oldest entry that a group still needs
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local is = {}
  for i = 1, #group, 2 do is[group[i]] = group[i + 1] end
  local needs
  if is.pending > 0 then
    needs = redis.call('XPENDING', KEYS[1], is.name)[2]
  else
    local ms, seq = parts(is['last-delivered-id'])
    needs = string.format('%.0f-%.0f', ms, seq + 1)
  end
  local ms, seq = parts(needs)
  if not oldest or ms < oldest_ms or (ms == oldest_ms and seq < oldest_seq) then
    oldest, oldest_ms, oldest_seq = needs, ms, seq
  end
end
if not oldest then return 0 end -- without a group it is unknown what is recorded
return redis.call('XTRIM', KEYS[1], 'MINID', oldest)
