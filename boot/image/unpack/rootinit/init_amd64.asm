# The first process of an operating system whose root is in RAM, for amd64.
# rootinit.go says what it does and why. The ELF header is written out here, so
# that any version of the tools makes the same bytes:
#
#	as -o init.o init_amd64.asm
#	ld -Ttext 0x400000 -e 0 -o init.elf init.o
#	objcopy -O binary -j .text init.elf init

	.set	base, 0x400000
	.text
ehdr:	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
	.short	2, 62			# executable, x86-64
	.long	1
	.quad	start, phdr - ehdr, 0	# entry, program headers, no sections
	.long	0
	.short	64, 56, 1, 0, 0, 0
phdr:	.long	1, 5			# load, read and execute
	.quad	0, base, base, end - ehdr, end - ehdr, 0x1000

start:	mov	%rsp, %rbp		# argc, argv..., NULL, envp..., NULL

	lea	bind(%rip), %r12	# mount("/", newroot, NULL, MS_BIND)
	lea	root(%rip), %rdi
	lea	newroot(%rip), %rsi
	mov	$0x1000, %r10d
	call	mount

	lea	enter(%rip), %r12	# chdir(newroot)
	lea	newroot(%rip), %rdi
	mov	$80, %eax
	call	try

	lea	move(%rip), %r12	# mount(".", "/", NULL, MS_MOVE)
	lea	dot(%rip), %rdi
	lea	root(%rip), %rsi
	mov	$0x2000, %r10d
	call	mount

	lea	change(%rip), %r12	# chroot(".")
	lea	dot(%rip), %rdi
	mov	$161, %eax
	call	try

	lea	newroot(%rip), %rdi	# rmdir(newroot)
	mov	$84, %eax
	syscall
	lea	paths(%rip), %rdi	# unlink("/init"), this program
	mov	$87, %eax
	syscall
	lea	owninit(%rip), %rdi	# rename(owninit, "/init"), if the image has one
	lea	paths(%rip), %rsi
	mov	$82, %eax
	syscall

	lea	run(%rip), %r12		# execve(path, argv, envp) for each of paths
	lea	paths(%rip), %r13
1:	mov	%r13, 8(%rbp)		# argv[0]
	mov	%r13, %rdi
	lea	8(%rbp), %rsi
	mov	(%rbp), %rdx
	lea	8(%rsi,%rdx,8), %rdx
	mov	$59, %eax
	syscall
	mov	%eax, %ebx
	mov	%r13, %rsi
2:	lodsb				# to the next path
	test	%al, %al
	jnz	2b
	mov	%rsi, %r13
	cmpb	$0, (%rsi)
	jnz	1b
	mov	%ebx, %eax
	jmp	fail

mount:	xor	%edx, %edx		# no type, no data
	xor	%r8d, %r8d
	mov	$165, %eax
try:	syscall
	test	%eax, %eax
	js	fail
	ret

fail:	neg	%eax			# errno as three digits, on the stack
	sub	$32, %rsp
	mov	errno(%rip), %rcx
	mov	%rcx, (%rsp)
	mov	$10, %ecx
	lea	2(%rsp), %rdi
3:	xor	%edx, %edx
	div	%ecx
	add	%dl, (%rdi)
	dec	%rdi
	cmp	%rsp, %rdi
	jae	3b
	lea	intro(%rip), %rsi
	call	print
	mov	%r12, %rsi
	call	print
	lea	error(%rip), %rsi
	call	print
	mov	%rsp, %rsi
	call	print
	mov	$1, %edi		# exit(1): the kernel panics
	mov	$60, %eax
	syscall

print:	mov	$-1, %rdx		# write(2, rsi, strlen(rsi))
4:	inc	%rdx
	cmpb	$0, (%rsi,%rdx)
	jnz	4b
	mov	$2, %edi
	mov	$1, %eax
	syscall
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
errno:	.asciz	"000\n\0\0\0"
end:
