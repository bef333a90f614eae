#!lua flags=allow-oom
-- Read entries of the stream for the ledger, with the group's position just before.
-- KEYS: events
-- ARGV: group, consumer, count, '>' for new entries or '0' for those that this consumer read and did not acknowledge,
--       id up to which the ledger is recorded, as ms and seq
-- Returns {id up to which the group had read, number of these not acknowledged, length, entries}, or nothing if there is
-- no such group. A group that had read less than the ledger has recorded was lost or reset: then nothing is read.
local function is_behind(id, ms, seq)
  local at, nth = string.match(id, '^(%d+)-(%d+)$')
  at, nth = tonumber(at), tonumber(nth)
  return at < ms or (at == ms and nth < seq)
end

if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local is = {}
  for i = 1, #group, 2 do is[group[i]] = group[i + 1] end
  if is.name == ARGV[1] then
    local before, length, read = is['last-delivered-id'], redis.call('XLEN', KEYS[1]), nil
    if not is_behind(before, tonumber(ARGV[5]), tonumber(ARGV[6])) then
      read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], ARGV[4])
    end
    return {before, is.pending, length, read and read[1][2] or {}}
  end
end
return {}
