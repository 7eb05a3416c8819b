"""Lua scripts that Redis executes atomically for a fleet. Their times are those of Redis, in microseconds since 1970.

The id of a stream entry is `term-number`. Each term is higher than all before it, so that Redis itself, which requires
ascending ids, rejects what a leader of an earlier term still tries to add. Numbers count the rounds of all terms.
"""

from typing import Final

__all__ = [
    "ACQUIRE_LEASE",
    "CHECK_BUCKET",
    "CHECK_PERMISSIONS",
    "PUBLISH",
    "REFUSALS",
    "RELEASE_LEASE",
    "RESERVE_REQUEST",
]

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

ACQUIRE_LEASE: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: 1 token of this member, 2 duration of the lease in milliseconds, 3 the highest term
-- that this member has seen; 4 highest number, 5 highest time, and 6 epoch of the rounds that it has read. Returns the
-- term if this member now holds the lease, or '0' if another one does; the time; and the newest id in the stream.
-- Each member writes, also one that does not hold the lease, so that each one notices when Redis rejects writes. This
-- write must come first, and may need memory: Redis does not reject a script that has written already.
redis.call('HSET', KEYS[3], 'heartbeat', string.format('%.0f', now))
redis.call('EXPIRE', KEYS[3], 604800)
-- If Redis lost its data, the next round continues from the highest number and time that a member knows.
local function raise(field, seen)
    if tonumber(seen) > tonumber(redis.call('HGET', KEYS[3], field) or '0') then
        redis.call('HSET', KEYS[3], field, seen)
    end
end
raise(redis.call('HGET', KEYS[3], 'epoch') == ARGV[6] and 'number' or 'floor', ARGV[4])
raise('at', ARGV[5])
local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
top = top[1] and top[1][1] or '0-0'
local holder = redis.call('GET', KEYS[1])
local term = '0'
if holder == ARGV[1] then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    term = redis.call('HGET', KEYS[3], 'term')
end
if not holder or not term then
    local last = math.max(tonumber(redis.call('HGET', KEYS[3], 'term') or '0'), tonumber(ARGV[3]))
    last = math.max(last, tonumber(string.match(top, '^%d+')))
    -- Lua counts in floats, which are exact up to here.
    if last >= 9007199254740991 then
        return redis.error_reply('IDTOOHIGH an entry in the stream leaves no room for the next term')
    end
    term = string.format('%.0f', math.max(now, last + 1))
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    redis.call('HSET', KEYS[3], 'term', term)
end
return {term, string.format('%.0f', now), top}
"""
)

PUBLISH: Final = (
    _NOW
    + """
-- KEYS: lease, stream, state. ARGV: 1 token of this member, 2 duration of the lease in milliseconds, 3 term, 4 maximum
-- length of the stream; 5 highest number and 6 highest time of the rounds that this member has read, and 7 time of the
-- last one with rates; 8 microseconds without rates after which the round states the gap; 9 seconds between two polls,
-- and 10 seconds to the next poll; 11 the rates, or '' if the poll failed; 12 epoch of the rounds that it has read.
-- Returns 1, or 0 if this member no longer holds the lease for this term.
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HGET', KEYS[3], 'term') ~= ARGV[3] then
    return 0
end
redis.call('HSET', KEYS[3], 'heartbeat', string.format('%.0f', now))
-- If Redis lost its data, or its clock went back, the member knows higher values.
local function highest(field, seen)
    return math.max(tonumber(redis.call('HGET', KEYS[3], field) or '0'), tonumber(seen))
end
-- An epoch ends when Redis loses the state of the fleet. The numbers of its rounds ascend, and `last` is the highest.
-- `floor` is the highest number of earlier epochs, which is not used again.
local floor = tonumber(redis.call('HGET', KEYS[3], 'floor') or '0')
local last = tonumber(redis.call('HGET', KEYS[3], 'number') or '-1')
local epoch = redis.call('HGET', KEYS[3], 'epoch')
if last >= 0 and epoch == ARGV[12] then
    last = math.max(last, tonumber(ARGV[5]))
else
    floor = math.max(floor, tonumber(ARGV[5]))
end
if last < 0 or not epoch then
    local top = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
    last = tonumber(top[1] and string.match(top[1][1], '%d+$') or '0')
    if last >= 9007199254740991 then last = 0 end
    last = math.max(last, floor)
    epoch = ARGV[3]
    redis.call('HSET', KEYS[3], 'epoch', epoch)
end
local number = string.format('%.0f', math.max(last, floor) + 1)
local at = math.max(now, highest('at', ARGV[6]) + 1)
local good = highest('good', ARGV[7])
local gap = 0
local id = ARGV[3] .. '-' .. number
if ARGV[11] ~= '' and good > 0 and at - good > tonumber(ARGV[8]) then gap = at - good end
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '=', ARGV[4], id, 'version', '1', 'at', string.format('%.0f', at),
    'gap', string.format('%.0f', gap), 'every', ARGV[9], 'next', ARGV[10], 'rates', ARGV[11],
    'after', string.format('%.0f', last), 'epoch', epoch)
if type(added) == 'table' and added.err then
    if not string.find(added.err, 'equal or smaller', 1, true) then return redis.error_reply(added.err) end
    -- The stream contains a foreign entry with a higher id. Release the lease: the next term will exceed that id.
    redis.call('PEXPIRE', KEYS[1], 0)
    return 0
end
redis.call('HSET', KEYS[3], 'number', number, 'at', string.format('%.0f', at))
if ARGV[11] ~= '' then redis.call('HSET', KEYS[3], 'good', string.format('%.0f', at), 'id', id) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
-- Let the keys of a fleet that no longer runs expire after a week.
redis.call('EXPIRE', KEYS[2], 604800)
redis.call('EXPIRE', KEYS[3], 604800)
return 1
"""
)

RELEASE_LEASE: Final = """
-- KEYS: lease. ARGV: token of this member.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], 0)
end
return 0
"""

RESERVE_REQUEST: Final = (
    _NOW
    + """
-- A rate limiter (GCRA). KEYS: bucket. ARGV: microseconds between two requests, and how many microseconds earlier than
-- that a burst may start. Reserves the next request; returns the microseconds to wait before sending it.
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local after = due + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1000)
return string.format('%.0f', math.max(0, due - tonumber(ARGV[2]) - now))
"""
)

REFUSALS: Final = ("NOPERM", "can't run this command", "can't access at least one of the keys")
"""Parts of the error with which the ACL refuses a command; in a script, Redis before 7.2 does not send NOPERM."""

_TRY: Final = f"""
local missing = {{}}
local outage
-- Redis checks permissions, and whether it accepts writes, before it looks at arguments. The commands that would write
-- have arguments that it rejects after that.
local function try(name, ...)
    local reply = redis.pcall(name, ...)
    if type(reply) ~= 'table' or not reply.err then return end
    for _, code in ipairs({{'READONLY', 'OOM ', 'MISCONF', 'NOREPLICAS', 'MASTERDOWN'}}) do
        if string.find(reply.err, code, 1, true) then outage = outage or reply.err end
    end
    for _, text in ipairs({{{", ".join(f'"{text}"' for text in REFUSALS)}}}) do
        if string.find(reply.err, text, 1, true) then return table.insert(missing, string.lower(name)) end
    end
end
"""

CHECK_PERMISSIONS: Final = (
    _TRY
    + """
-- KEYS: lease, stream, state. Returns the commands that the user may not run on these keys; changes nothing.
try('TIME')
try('GET', KEYS[1])
try('SET', KEYS[1], '', 'PX', '0')
try('PEXPIRE', KEYS[1], 'x')
try('XREVRANGE', KEYS[2], '+', '-', 'COUNT', '1')
try('XADD', KEYS[2], 'MAXLEN', '=', 'x', '1-1', 'a', 'b')
try('EXPIRE', KEYS[2], 'x')
try('HGET', KEYS[3], 'term')
try('HSET', KEYS[3], 'a', 'b', 'c')
return outage and redis.error_reply(outage) or missing
"""
)

CHECK_BUCKET: Final = (
    _TRY
    + """
-- KEYS: bucket. Returns the commands that the user may not run on it; changes nothing.
try('GET', KEYS[1])
try('SET', KEYS[1], '', 'PX', '0')
return outage and redis.error_reply(outage) or missing
"""
)
