#!lua flags=allow-oom
-- Try commands, each even if those before it failed; see `rights.py`.
-- KEYS: the keys that the commands may create, deleted at the end
-- ARGV: the commands, a JSON list of lists of words
-- Returns {command, its first argument, error} of each that failed
local failed = {}
for _, words in ipairs(cjson.decode(ARGV[1])) do
  local answer = redis.pcall(unpack(words))
  if type(answer) == 'table' and answer.err then
    failed[#failed + 1] = {words[1], words[2] or '', answer.err}
  end
end
redis.pcall('DEL', unpack(KEYS))
return failed
