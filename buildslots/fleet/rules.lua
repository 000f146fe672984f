-- What people do: create, set, pause, resume. Behind pool.lua, below "#!lua flags=allow-oom".

local who = ARGV[3]

-- Each change has a younger version, the time: of a server's rules and a client's, the younger ones count.
local function changed(what)
  set('version', math.max(cfg.version + 1, now))
  log(who, what)
end

local function create()
  local cap, head_start = whole(ARGV[4], 1, MOST_CAP), whole(ARGV[8], 0, LONGEST_HEAD_START)
  local lease, ticket = whole(ARGV[5], 1, LONGEST_LEASE), whole(ARGV[7], 1, LONGEST_LEASE)
  local confirm = lease and whole(ARGV[6], 1, lease)
  if not (cap and lease and confirm and ticket and head_start) then
    return redis.error_reply('BADCALL arguments of create')
  end
  adopt(0, cap, lease, confirm, ticket, head_start)
  begin()
  changed(string.format('create slots=%d', cap))
  return rules_reply()
end

local function set_rules()
  local cap, head_start, what = ARGV[4], ARGV[5], {}
  if cap ~= '' then
    cap = whole(cap, 1, MOST_CAP)
    what[#what + 1] = cap and string.format('slots=%d', cap)
    set('cap', cap or cfg.cap)
  end
  if head_start ~= '' then
    head_start = whole(head_start, 0, LONGEST_HEAD_START)
    what[#what + 1] = head_start and string.format('head_start=%ds', head_start / SECOND)
    set('head_start', head_start or cfg.head_start)
  end
  if not (cap and head_start and #what > 0) then
    return redis.error_reply('BADCALL arguments of set')
  end
  changed(table.concat(what, ' '))
  purge()
  advance()
  return rules_reply()
end

local function start_pause()
  local length, why = whole(ARGV[4], 1, LONGEST_PAUSE), ARGV[5]
  if not (length and why) then
    return redis.error_reply('BADCALL arguments of pause')
  end
  end_pause()
  set('pause_since', now)
  set('pause_until', now + length)
  set('pause_who', string.sub(who, 1, LONGEST_WORDS))
  set('pause_why', string.sub(why, 1, LONGEST_WORDS))
  log(who, string.format('pause %ds', length / SECOND) .. (why ~= '' and ': ' .. why or ''))
  return rules_reply()
end

local function resume()
  end_pause()
  log(who, 'resume')
  purge()
  advance()
  return rules_reply()
end

local OPERATIONS = { create = create, set = set_rules, pause = start_pause, resume = resume }
if not (OPERATIONS[op] and who) then
  return redis.error_reply('BADCALL no such operation, or nobody who does it')
end
local exists = load_pool()
if exists == (op == 'create') then
  return redis.error_reply(exists and 'EXISTS the pool exists' or 'NOPOOL no such pool')
end
if exists then
  begin()
end
local reply = OPERATIONS[op]()
if reply.err then
  return reply
end
return finish(reply)
