#!/bin/sh
# Makes a password for each NATS user, once: <user>.password for the clients, nats-passwords.conf for the server. And a secret of the gateways.
#   deploy/make-passwords.sh FOLDER
# What is there is kept: run it again after a new user has come. With the nats CLI at hand the server's file holds hashes.
set -eu
umask 077
folder="${1:?usage: make-passwords.sh FOLDER}"
mkdir -p "$folder"
: > "$folder/nats-passwords.conf.new"
for user in command-handler process-manager projector reporter sql gateway setup publisher store-2506 operator administrator; do
    file="$folder/$user.password"
    [ -s "$file" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$file"
    # The containers' users read it.
    chmod 644 "$file"
    secret="$(cat "$file")"
    if command -v nats > /dev/null; then
        # The cheapest hash: a slow one protects passwords that can be guessed, which 24 random bytes cannot be. And whoever knows a user's name can
        # make the server compute it at each wrong login: at the CLI's usual cost of 11, a hundred clients at once kept everybody waiting.
        secret="$(nats server passwd --cost 4 --pass "$secret")"
    fi
    name="$(printf %s "$user" | tr 'a-z-' 'A-Z_')"
    printf '%s_PASSWORD: "%s"\n' "$name" "$secret" >> "$folder/nats-passwords.conf.new"
done
# The keys of the gateway's clients, hashed: none yet, so that nobody may send anything over HTTP (`millstream keys`).
[ -e "$folder/gateway-keys.toml" ] || : > "$folder/gateway-keys.toml"
chmod 644 "$folder/gateway-keys.toml"
# What goes into ids of commands that have an Idempotency-Key (gateway.id_secret_file).
[ -s "$folder/gateway-id.secret" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$folder/gateway-id.secret"
chmod 644 "$folder/gateway-id.secret"
mv "$folder/nats-passwords.conf.new" "$folder/nats-passwords.conf"
chmod 644 "$folder/nats-passwords.conf"
