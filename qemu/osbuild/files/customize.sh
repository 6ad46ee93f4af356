#!/bin/sh
# Run by mmdebstrap when the packages are in; $1 is the new root.
set -eu
root=$1

# The bootable container convention: the kernel beside its modules.
for kernel in "$root"/boot/vmlinuz-*; do
	version=${kernel##*/vmlinuz-}
	mv "$kernel" "$root/usr/lib/modules/$version/vmlinuz"
done
rm -rf "$root"/boot/*  "$root"/vmlinuz* "$root"/initrd*

# What only installs and updates packages has no use in an image.
chroot "$root" dpkg --purge --force-depends \
	usrmerge initramfs-tools initramfs-tools-core klibc-utils libklibc linux-base perl perl-modules-5.36 libperl5.36 \
	>/dev/null 2>&1
rm -rf "$root"/var/cache/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/usr/share/perl

# Each machine makes its own identity, in memory.
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
echo sealboot-demo >"$root/etc/hostname"

# The console belongs to the services' messages; nobody can log in anyway.
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@.service"
ln -sf /dev/null "$root/etc/systemd/system/getty@.service"
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim; do
	ln -sf /dev/null "$root/etc/systemd/system/$timer.timer"
done
