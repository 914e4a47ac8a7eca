#!/bin/sh
# Every build of the scripted pair in both modes, a kill at every named point, and CartPole. Usage: check.sh BUILD
set -eu
exec 3>&2 # the shell reports killed children on 2
build=$1
RLAY_DIR=$(mktemp -d "${TMPDIR:-/dev/shm}/rlay-check.XXXXXX")
export RLAY_DIR
peer_pid=
trap 'test -z "$peer_pid" || kill -9 "$peer_pid" 2>/dev/null || true; rm -rf "$RLAY_DIR" "$RLAY_DIR.out"' EXIT
mkdir "$RLAY_DIR.out"

fail() { echo "FAILED: $*" >&3; exit 1; }
other() { if [ "$1" = server ]; then echo client; else echo server; fi; }

# pair ENV_PROGRAM AGENT_PROGRAM ENV_SIDE: play the script; the lines must be those of the first pair.
pair() {
    "$1" --side "$3" --role env --channel check & peer_pid=$!
    "$2" --side "$(other "$3")" --role agent --channel check >"$RLAY_DIR.out/lines" || fail "agent $2 against $1, env is $3"
    wait "$peer_pid" || fail "environment $1 against $2, env is $3"
    peer_pid=
    test -e "$RLAY_DIR.out/expected" || cp "$RLAY_DIR.out/lines" "$RLAY_DIR.out/expected"
    cmp "$RLAY_DIR.out/lines" "$RLAY_DIR.out/expected" || fail "the lines differ: $2 against $1, env is $3"
    test "$(ls -A "$RLAY_DIR" | tr '\n' ' ')" = "check.client.lock check.server.lock " || fail "files were left: $(ls -A "$RLAY_DIR")"
}

for side in server client; do
    for env in "" _cpp _sanitize; do
        for agent in "" _sanitize; do
            pair "$build/scripted_peer$env" "$build/scripted_peer$agent" $side
        done
    done
done
echo "scripted pairs: $(wc -l <"$RLAY_DIR.out/expected") lines each, all equal"

# lost ENV_SIDE VICTIM POINT: the survivor must report a lost peer, and a fresh pair must work on the same channel.
lost() {
    survivor=agent; test "$2" = env || survivor=env
    victim_side=$1; test "$2" = env || victim_side=$(other "$1")
    "$build/scripted_peer_sanitize" --side "$(other "$victim_side")" --role $survivor --channel check >/dev/null 2>"$RLAY_DIR.out/error" & peer_pid=$!
    "$build/scripted_peer" --side "$victim_side" --role "$2" --channel check --die-at "$3" --die-count 3 >/dev/null 2>&1 || true
    if wait "$peer_pid"; then fail "the $survivor did not notice that the $2 died at $3"; fi
    peer_pid=
    grep -q "error 17: " "$RLAY_DIR.out/error" || fail "the $2 died at $3: $(cat "$RLAY_DIR.out/error")"
    pair "$build/scripted_peer" "$build/scripted_peer" "$1"
}

for side in server client; do
    for point in request_half_written request_written request_handed_over; do lost $side agent $point; done
    for point in request_read reply_half_written reply_written reply_handed_over; do lost $side env $point; done
done 2>/dev/null
echo "kills: every survivor noticed, every fresh pair worked"

"$build/cartpole_env_sanitize" --server --once & peer_pid=$!
"$build/minimal_agent_sanitize" --episodes 1 || fail "CartPole as a server"
wait "$peer_pid" || fail "CartPole as a server"
"$build/cartpole_env_sanitize" --client & peer_pid=$!
"$build/minimal_agent_sanitize" --server --episodes 1 || fail "CartPole as a client"
wait "$peer_pid" || fail "CartPole as a client"
peer_pid=
echo "all checks passed"
