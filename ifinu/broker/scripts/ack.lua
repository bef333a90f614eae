#!lua flags=allow-oom
-- Acknowledge a message that does not hold the claim of its id.
-- KEYS: in flight, deadlines, events (absent if no event is written)
-- ARGV: tag, event, id, data (absent or '' if no event is written), number whose pace it kept ('' or absent for none)
-- Returns 1, or 0 if it was not in flight any more: its lease ran out and it went back to the queue; 'freed' if its number
-- may send again soon and messages wait for it.
redis.call('ZREM', KEYS[2], ARGV[1])
local was = redis.call('HDEL', KEYS[1], ARGV[1])
if KEYS[3] and was == 1 then
  redis.call('XADD', KEYS[3], '*', 'event', ARGV[2], 'id', ARGV[3], 'data', ARGV[4])
end
if was == 1 and ARGV[5] and ARGV[5] ~= '' then
  -- uses: numbers
  if select(2, free(string.sub(KEYS[1], 1, -8), ARGV[5], ARGV[1], false)) then
    return 'freed'
  end
end
return was
