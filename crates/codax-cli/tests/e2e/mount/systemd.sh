# Runs a manager of systemd's in namespaces of its own, and the unit under it. Arguments: a directory for all of it, the program, the unit.
# Prints a line for each step; ends with 77 where systemd can't run.
set -eu
dir=$1 program=$2 unit=$3
mount -t tmpfs -o mode=755 run /run
# By this directory systemd knows that it manages the system.
mkdir -p /run/systemd/system /run/user/0 "$dir/config/systemd/user" "$dir/mnt"
chmod 700 /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME="$dir/config" CODAX_STORE="$dir/store"
cat > "$dir/codax.toml" <<END
store = "$dir/store"
mount = "$dir/mnt"
dram = "8MiB"
END
sed -e "s#/usr/local/bin/codax#$program#; s#/etc/codax.toml#$dir/codax.toml#; s#^RequiresMountsFor=.*##" \
    -e "s#^LimitNOFILE=.*#Environment=CODAX_STORE=$dir/store#" "$unit" > "$dir/config/systemd/user/codax.service"
systemd --user --log-target=console > "$dir/systemd.log" 2>&1 &
manager=$!
tries=0
until systemctl --user daemon-reload 2> "$dir/why"; do
    tries=$((tries + 1))
    if [ $tries = 100 ] || ! kill -0 $manager 2> /dev/null; then
        cat "$dir/why" "$dir/systemd.log"
        exit 77
    fi
    sleep 0.1
done
main() { systemctl --user show --property MainPID --value codax; }

systemctl --user start codax
# Ready means mounted.
grep -q " $dir/mnt fuse.codax " /proc/self/mounts
echo kept > "$dir/mnt/file"
echo started

systemctl --user reload codax
systemctl --user --quiet is-active codax
echo reloaded

first=$(main)
systemctl --user kill --signal KILL codax
until [ "$(main)" != "$first" ] && systemctl --user --quiet is-active codax; do sleep 0.1; done
[ "$(cat "$dir/mnt/file")" = kept ]
echo restarted

systemctl --user stop codax
! grep " $dir/mnt " /proc/self/mounts
[ -z "$(ls "$dir/mnt")" ]
[ "$(systemctl --user show --property Result --value codax)" = success ]
echo stopped

systemctl --user start codax
[ "$(cat "$dir/mnt/file")" = kept ]
systemctl --user stop codax
"$program" down --purge
kill $manager
wait $manager || true
echo purged
