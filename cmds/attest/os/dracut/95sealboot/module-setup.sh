#!/bin/bash
# dracut: move the handover to /run, which the real root inherits, before switch_root.

check() { return 0; }

depends() { return 0; }

install() {
	inst_simple /usr/lib/sealboot/handover /usr/lib/sealboot/handover
	inst_multiple cp mkdir chmod mount rm rmdir
	inst_hook pre-pivot 05 "$moddir/sealboot-handover.sh"
}
