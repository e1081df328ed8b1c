#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: test/vmm/oracle-kvm.sh BUILD
# The monitor on Linux's own KVM: Debian's cloud kernel in QEMU's TCG, which needs no virtualization, loads kvm-amd and
# runs casement-static --accel kvm, which boots the same kernel again. What fails here is the monitor's fault, not
# the software processor's. Takes a few minutes; speaks TAP.
set -u
build=$(cd "${1:?usage: test/vmm/oracle-kvm.sh BUILD}" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
o=$tmp/tree/o

inner() {
	cat <<'END'
echo "inner: $(uname -r) cpus $(nproc)"
[ -b /dev/vda ] && echo "disk: $(md5sum </dev/vda)"
[ -b /dev/vda ] && echo "serial: $(cat /sys/block/vda/serial)"
[ -b /dev/vdb ] && dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null && echo "copied"
[ -c /dev/hwrng ] && echo "random: $(head -c 8 /dev/hwrng | wc -c)"
echo "msix: $(grep -c PCI-MSI /proc/interrupts)"
poweroff -f
END
}

outer() {
	run="timeout 200 /o/casement run --accel kvm -k /o/vmlinuz -i /o/initrd.img -m 256M"
	append="console=ttyS0 quiet panic=-1 casement.script=$(inner | base64 -w0)"
	for m in $(cat "$build/guest/modules/kvm-amd.order"); do
		echo "insmod /o/$m.ko"
	done
	echo 'truncate -s 1M /o/out.img'
	echo '/o/casement doctor'
	echo "$run -d /o/disk.img,ro,serial=casement -d /o/out.img --rng -p '$append'; echo one: \$?"
	echo 'cmp /o/disk.img /o/out.img && echo same'
	echo "$run -c 2 -d /o/disk.img,ro -p '$append pci=nomsi'; echo two: \$?"
	# The driver is a module, so init has no console yet and must open it itself.
	hvc='exec 3<>/dev/hvc0; echo ready >&3; read line <&3; echo "hvc: $line" >&3; reboot -f'
	echo "echo typed | $run --console virtio -p 'quiet panic=-1 casement.script=$(echo "$hvc" | base64 -w0)'; echo three: \$?"
}

mkdir -p "$o"
cp "$build/casement-static" "$o/casement"
cp "$build/guest/vmlinuz" "$build/guest/initrd.img" "$o/"
head -c 1048576 /dev/urandom >"$o/disk.img"
sum=$(md5sum <"$o/disk.img")
for m in $(cat "$build/guest/modules/kvm-amd.order"); do
	cp "$build/guest/modules/$m.ko" "$o/"
done
outer >"$tmp/tree/script"
(cd "$tmp/tree" && find . | cpio -o -H newc -R 0:0 --quiet) >"$tmp/more.cpio"
cat "$build/guest/initrd.img" "$tmp/more.cpio" >"$tmp/initrd.img"
timeout 600 qemu-system-x86_64 -accel tcg -cpu max -m 2048 -nodefaults -display none -no-reboot -serial stdio \
	-kernel "$build/guest/vmlinuz" -initrd "$tmp/initrd.img" -append "console=ttyS0 quiet" </dev/null 2>"$tmp/err" |
	tr -d '\r' | tee "${CASEMENT_ORACLE_LOG:-/dev/null}" >"$tmp/log"

n=0 bad=0
want() {
	n=$((n + 1))
	if [ "$(grep -c "$1" "$tmp/log")" -ge "${3:-1}" ]; then
		echo "ok $n - $2"
	else
		echo "not ok $n - $2"
		bad=1
	fi
}
want '64-bit guest *runs' 'doctor runs a 64-bit guest on this KVM'
want '^inner: 6\..* cpus 1' 'one processor: a shell'
want "^disk: $sum" 'virtio-blk reads the image' 2
want '^serial: casement' 'virtio-blk tells its serial'
want '^same' 'virtio-blk writes the image'
want '^random: 8' 'virtio-rng gives bytes'
want '^msix: [1-9]' 'devices interrupt by MSI-X'
want '^one: 0' 'power-off ends the run with code 0'
want '^inner: 6\..* cpus 2' 'two processors'
want '^msix: 0' 'devices interrupt by INTx without MSI'
want '^two: 0' 'power-off with two processors'
want '^hvc: typed' 'the virtio console, both ways'
want '^three: 0' 'a reset ends the run with code 0'
[ $bad = 0 ] || { tail -n 40 "$tmp/log"; cat "$tmp/err"; } | sed 's/^/# /'
echo "1..$n"
exit $bad
