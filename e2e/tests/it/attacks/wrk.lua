-- Sends the signed callbacks of a file, one after the other, over and over. Each thread begins elsewhere.
local threads = 0

function setup(thread)
    thread:set("begin", threads)
    threads = threads + 1
end

function init(args)
    requests = {}
    for line in io.lines(args[1]) do
        local signature, body = line:match("^(%x+) (.*)$")
        local headers = { ["Content-Type"] = "application/json", ["X-Signature"] = signature }
        requests[#requests + 1] = wrk.format("POST", nil, headers, body)
    end
    turn = begin * 500
end

function request()
    turn = turn % #requests + 1
    return requests[turn]
end

function done(summary, latency)
    local errors = summary.errors
    print(string.format(
        'figures {"answers":%d,"not_200":%d,"broken":%d,"seconds":%.3f,"p50_us":%d,"p99_us":%d,"max_us":%d}',
        summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
        summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency.max))
end
