#!lua flags=allow-oom
-- Move a message in flight to the delayed set, unchanged, if its time has not come.
-- KEYS: in flight, deadlines, delayed
-- ARGV: tag, due (epoch ms), number whose pace it kept ('' or absent for none)
-- Returns 1, or 0 if it is due, or was not in flight any more.
local time = redis.call('TIME')
if tonumber(ARGV[2]) <= time[1] * 1000 + time[2] / 1000 then
  return 0
end
redis.call('ZCARD', KEYS[3]) -- a key of a wrong type fails here, before the message has left its place
local message = redis.call('HGET', KEYS[1], ARGV[1])
if not message then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[3] and ARGV[3] ~= '' then
  -- uses: numbers
  free(string.sub(KEYS[1], 1, -8), ARGV[3], ARGV[1], false)
end
-- Messages due at the same moment get slightly later scores in turn; Redis would order equal ones by their bytes.
local before = redis.call('ZCOUNT', KEYS[3], ARGV[2], ARGV[2] + 1000)
redis.call('ZADD', KEYS[3], ARGV[2] + before / 1024, message)
return 1
