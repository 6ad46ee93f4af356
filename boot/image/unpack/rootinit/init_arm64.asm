// The first process of an operating system whose root is in RAM, for arm64.
// rootinit.go says what it does and why. The ELF header is written out here, so
// that any version of the tools makes the same bytes:
//
//	aarch64-linux-gnu-as -o init.o init_arm64.asm
//	aarch64-linux-gnu-ld -Ttext 0x400000 -e 0 -o init.elf init.o
//	aarch64-linux-gnu-objcopy -O binary -j .text init.elf init

	.set	base, 0x400000
	.text
ehdr:	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
	.short	2, 183			// executable, AArch64
	.word	1
	.quad	start, phdr - ehdr, 0	// entry, program headers, no sections
	.word	0
	.short	64, 56, 1, 0, 0, 0
phdr:	.word	1, 5			// load, read and execute
	.quad	0, base, base, end - ehdr, end - ehdr, 0x10000

start:	mov	x19, sp			// argc, argv..., NULL, envp..., NULL

	adr	x20, bind		// mount("/", newroot, NULL, MS_BIND)
	adr	x0, root
	adr	x1, newroot
	mov	x3, #0x1000
	bl	mount

	adr	x20, enter		// chdir(newroot)
	adr	x0, newroot
	mov	x8, #49
	bl	try

	adr	x20, move		// mount(".", "/", NULL, MS_MOVE)
	adr	x0, dot
	adr	x1, root
	mov	x3, #0x2000
	bl	mount

	adr	x20, change		// chroot(".")
	adr	x0, dot
	mov	x8, #51
	bl	try

	mov	x0, #-100		// unlinkat(AT_FDCWD, newroot, AT_REMOVEDIR)
	adr	x1, newroot
	mov	x2, #0x200
	mov	x8, #35
	svc	#0
	mov	x0, #-100		// unlinkat(AT_FDCWD, "/init", 0), this program
	adr	x1, paths
	mov	x2, #0
	mov	x8, #35
	svc	#0
	mov	x0, #-100		// renameat(owninit, "/init"), if the image has one
	adr	x1, owninit
	mov	x2, #-100
	adr	x3, paths
	mov	x8, #38
	svc	#0

	adr	x20, run		// execve(path, argv, envp) for each of paths
	adr	x21, paths
1:	str	x21, [x19, #8]		// argv[0]
	mov	x0, x21
	add	x1, x19, #8
	ldr	x2, [x19]
	add	x2, x1, x2, lsl #3
	add	x2, x2, #8
	mov	x8, #221
	svc	#0
2:	ldrb	w1, [x21], #1		// to the next path
	cbnz	w1, 2b
	ldrb	w1, [x21]
	cbnz	w1, 1b
	b	fail

mount:	mov	x2, #0			// no type, no data
	mov	x4, #0
	mov	x8, #40
try:	svc	#0
	tbnz	x0, #63, fail
	ret

fail:	neg	w0, w0			// errno as three digits, on the stack
	sub	sp, sp, #32
	adr	x1, errno
	ldr	x2, [x1]
	str	x2, [sp]
	mov	w3, #10
	mov	x4, sp
	add	x1, x4, #2
3:	udiv	w5, w0, w3
	msub	w6, w5, w3, w0
	ldrb	w7, [x1]
	add	w7, w7, w6
	strb	w7, [x1], #-1
	mov	w0, w5
	cmp	x1, x4
	b.hs	3b
	adr	x1, intro
	bl	print
	mov	x1, x20
	bl	print
	adr	x1, error
	bl	print
	mov	x1, sp
	bl	print
	mov	x0, #1			// exit(1): the kernel panics
	mov	x8, #93
	svc	#0

print:	mov	x2, #-1			// write(2, x1, strlen(x1))
4:	add	x2, x2, #1
	ldrb	w0, [x1, x2]
	cbnz	w0, 4b
	mov	x0, #2
	mov	x8, #64
	svc	#0
	ret

root:	.asciz	"/"
dot:	.asciz	"."
newroot: .asciz	"/.extra/sealboot/root"
owninit: .asciz	"/.extra/sealboot/init"
paths:	.asciz	"/init"
	.asciz	"/sbin/init"
	.asciz	"/etc/init"
	.asciz	"/bin/init"
	.asciz	"/usr/lib/systemd/systemd"
	.byte	0
intro:	.asciz	"sealboot: root in RAM: cannot "
bind:	.asciz	"bind / to a new mount"
enter:	.asciz	"enter the new mount"
move:	.asciz	"move the new mount to /"
change:	.asciz	"change root to the new mount"
run:	.asciz	"run /init, /sbin/init, /etc/init, /bin/init or /usr/lib/systemd/systemd"
error:	.asciz	": error "
	.balign	8
errno:	.asciz	"000\n\0\0\0"
end:
