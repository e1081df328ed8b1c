# SPDX-License-Identifier: MIT
# For the tests of casement(1) in shell: $build, $run (the program), $tmp, and TAP. Sourced.
set -u
build=$(cd "${CASEMENT_BUILD:-${1:?usage: $0 BUILD}}" && pwd)
run=${CASEMENT_RUN:-$build/casement}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0 bad=0
kernel=$build/guest/vmlinuz
initrd=$build/guest/initrd.img

# point STATUS NAME [FILE with details]
point() {
	n=$((n + 1))
	if [ "$1" = 0 ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		[ -z "${3:-}" ] || tail -n 25 "$3" | sed 's/^/# /'
		bad=1
	fi
}

skip() {
	n=$((n + 1))
	echo "ok $n - $1 # SKIP $2"
}

# says PATTERN NAME: a line of the console is that.
says() {
	grep -q "$1" "$tmp/console"
	point $? "$2" "$tmp/console"
}

# guest SCRIPT OPTION…: boots Debian's kernel, runs the script in it; sets status and leaves $tmp/console.
guest() {
	script=$(base64 -w0 <"$1")
	shift
	timeout -k 5 120 "$run" run -k "$kernel" -i "$initrd" -m 256M \
		-p "console=ttyS0 quiet panic=-1 casement.script=$script" "$@" </dev/null >"$tmp/out" 2>"$tmp/err"
	status=$?
	tr -d '\r' <"$tmp/out" >"$tmp/console"
	cat "$tmp/err" >>"$tmp/console"
}

finish() {
	echo "1..$n"
	exit $bad
}
