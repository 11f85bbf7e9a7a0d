# This file brings up a real Keycloak for ./test, which sources it.
#
# Keycloak is fetched once, with Maven, into a cache folder outside the repository; each run works on a copy of its own,
# with its data in memory, and removes it again. It takes about 800 MB of memory and, beside a build on two cores, a
# minute to start, so it starts while the sources are checked. Tests find it through TEST_KEYCLOAK_URL and make their
# own realms.

keycloak_version=26.7.3
keycloak_cache="${XDG_CACHE_HOME:-$HOME/.cache}/essaim-test/keycloak-$keycloak_version"
keycloak_job=""

# Begins to bring it up, beside whatever follows.
begin_keycloak() {
    mkdir "$folder/keycloak"
    keycloak_password="$RANDOM$RANDOM$RANDOM"
    # A process group of its own, so that nothing of it is left behind.
    set -m
    bring_up_keycloak > "$folder/keycloak/log" 2>&1 &
    keycloak_job=$!
    set +m
}

# Waits until it is there and names it to the tests; fails, and says why, when it cannot be had.
await_keycloak() {
    [ -n "$keycloak_job" ] || return 1
    local state="$folder/keycloak/state"
    while [ ! -s "$state" ]; do
        if ! kill -0 "$keycloak_job" 2> /dev/null; then
            [ -s "$state" ] || echo "failed: it ended" > "$state"
        fi
        sleep 0.2
    done
    local port
    read -r word port < "$state"
    if [ "$word" != ready ]; then
        tail -n 5 "$folder/keycloak/log" >&2
        keycloak_failure="$(cat "$state")"
        return 1
    fi
    export TEST_KEYCLOAK_URL="http://127.0.0.1:$port" TEST_KEYCLOAK_ADMIN=admin
    export TEST_KEYCLOAK_ADMIN_PASSWORD="$keycloak_password"
}

end_keycloak() {
    [ -n "$keycloak_job" ] || return 0
    kill -KILL -- "-$keycloak_job" 2> /dev/null || true
    wait "$keycloak_job" 2> /dev/null || true
    keycloak_job=""
}

bring_up_keycloak() {
    local reason
    if ! reason="$(fetch_keycloak)"; then
        echo "failed: ${reason##*$'\n'}" > "$folder/keycloak/state"
        return
    fi
    cp -R "$keycloak_cache" "$folder/keycloak/home"
    # Another program can have the port: then another is tried.
    local attempt port
    for attempt in 1 2 3; do
        port="$(free_port)"
        start_keycloak "$port" &
        local server=$!
        for _ in $(seq 900); do
            if is_keycloak_ready $((port + 1)); then
                echo "ready $port" > "$folder/keycloak/part" && mv "$folder/keycloak/part" "$folder/keycloak/state"
                # Whoever kills ./test outright has nobody to end it.
                while kill -0 "$$" 2> /dev/null && kill -0 "$server" 2> /dev/null; do sleep 1; done
                kill "$server"
                return
            fi
            kill -0 "$server" 2> /dev/null || break
            sleep 0.2
        done
        kill "$server" 2> /dev/null || true
        wait "$server" || true
    done
    echo "failed: it does not start (attempt $attempt, see above)" > "$folder/keycloak/state"
}

start_keycloak() {
    KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD="$keycloak_password" \
        JAVA_OPTS_KC_HEAP="-Xms128m -Xmx512m" "$folder/keycloak/home/bin/kc.sh" start-dev --db=dev-mem \
        --http-host=127.0.0.1 --http-port="$1" --health-enabled=true --http-management-port=$(($1 + 1))
}

is_keycloak_ready() {
    local answer
    answer="$( (exec 3<> "/dev/tcp/127.0.0.1/$1" && printf 'GET /health/ready HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3) 2> /dev/null)" ||
        return 1
    [[ "$answer" == *" 200 "* ]]
}

# Two ports in a row that nobody listens on.
free_port() {
    local port
    while true; do
        port=$((32768 + RANDOM % 12000))
        if ! (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null &&
            ! (exec 3<> "/dev/tcp/127.0.0.1/$((port + 1))") 2> /dev/null; then
            echo "$port"
            return
        fi
    done
}

# Fills the cache. The last line says what went wrong, when it fails.
fetch_keycloak() {
    if [ -x "$keycloak_cache/bin/kc.sh" ] && command -v java > /dev/null; then return; fi
    has_java_and_maven || return 1
    if [ -x "$keycloak_cache/bin/kc.sh" ]; then return; fi
    local part="$keycloak_cache.part-$$"
    mkdir -p "$part" || return 1
    if ! mvn -B -q dependency:copy -DoutputDirectory="$part" \
        -Dartifact="org.keycloak:keycloak-quarkus-dist:$keycloak_version:tar.gz" < /dev/null >&2; then
        rm -rf "$part"
        echo "Maven does not get keycloak-quarkus-dist $keycloak_version"
        return 1
    fi
    # The name appears when everything is there; somebody else may have been faster.
    tar -xzf "$part"/*.tar.gz -C "$part" && mv -T "$part/keycloak-$keycloak_version" "$keycloak_cache" 2> /dev/null
    rm -rf "$part"
    [ -x "$keycloak_cache/bin/kc.sh" ] || { echo "the archive cannot be unpacked"; return 1; }
}

has_java_and_maven() {
    if command -v java > /dev/null && command -v mvn > /dev/null; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "java or mvn is missing (Debian: apt-get install default-jdk-headless maven)"
        return 1
    fi
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        default-jdk-headless maven; } > /dev/null 2>&1 || { echo "default-jdk-headless and maven cannot be installed"; return 1; }
}
