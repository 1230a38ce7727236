# Switch routines of each shape that libraries use, and code that only looks like one. Assembled by the unit tests.
# Each has an unwind entry of its own where a real one would have it too, or none.

.intel_syntax noprefix
.text

# Six registers pushed; the stack pointer in a word that the first argument points to.
.p2align 4
.globl pushes_all
pushes_all:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, [rsi]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# The same, with the code address popped and jumped to.
.p2align 4
.globl pops_and_jumps
pops_and_jumps:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, [rsi]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    pop rcx
    jmp rcx

# The code address and the stack pointer of the caller copied to a block, then a call on the scheduler's stack.
.p2align 4
.globl calls_scheduler
calls_scheduler:
    mov rax, [rsp]
    mov [rdi+0x10], rax
    lea rax, [rsp+8]
    mov [rdi+8], rax
    mov [rdi+0x18], rbp
    mov rsp, [rsi+8]
    push rdi
    call [rdx]
    ud2

# Registers on the stack, the saved stack pointer handed on in rax; control words between them.
.p2align 4
.globl hands_over
hands_over:
    lea rsp, [rsp-0x38]
    stmxcsr [rsp]
    fnstcw [rsp+4]
    mov [rsp+8], r12
    mov [rsp+0x10], r13
    mov [rsp+0x18], r14
    mov [rsp+0x20], r15
    mov [rsp+0x28], rbx
    mov [rsp+0x30], rbp
    mov rax, rsp
    mov rsp, rdi
    mov r8, [rsp+0x38]
    ldmxcsr [rsp]
    fldcw [rsp+4]
    mov r12, [rsp+8]
    mov r13, [rsp+0x10]
    mov r14, [rsp+0x18]
    mov r15, [rsp+0x20]
    mov rbx, [rsp+0x28]
    mov rbp, [rsp+0x30]
    lea rsp, [rsp+0x40]
    mov rdx, rsi
    mov rdi, rax
    jmp r8

# A block of registers with the stack pointer as it was on entry.
.p2align 4
.globl block_on_entry
block_on_entry:
    mov [rdi], rbx
    mov [rdi+8], rsp
    mov [rdi+0x10], rbp
    mov [rdi+0x20], r12
    mov [rdi+0x28], r13
    mov [rdi+0x30], r14
    mov [rdi+0x38], r15
    mov rbx, [rsi]
    mov rsp, [rsi+8]
    mov rbp, [rsi+0x10]
    mov r12, [rsi+0x20]
    mov r13, [rsi+0x28]
    mov r14, [rsi+0x30]
    mov r15, [rsi+0x38]
    pop rax
    jmp rax

# A block that gets its registers when the stack pointer is the other one.
.p2align 4
.globl block_filled_late
block_filled_late:
    mov [rdi], rsp
    mov rsp, [rsi]
    pop rax
    mov [rdi+8], rbp
    mov [rdi+0x10], rbx
    mov [rdi+0x18], r12
    mov rbp, [rsi+8]
    mov rbx, [rsi+0x10]
    mov r12, [rsi+0x18]
    jmp rax

# A slot below the first argument, read and then overwritten.
.p2align 4
.globl slot_below
slot_below:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov rax, [rdi-0x10]
    mov [rdi-0x10], rsp
    mov rsp, rax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# A block with code address and stack pointer; a system call and an error branch in the middle.
.p2align 4
.globl block_with_pc
block_with_pc:
    mov [rdi+0x80], rbx
    mov [rdi+0x78], rbp
    mov [rdi+0x48], r12
    mov [rdi+0x50], r13
    mov [rdi+0x58], r14
    mov [rdi+0x60], r15
    mov rcx, [rsp]
    mov [rdi+0xa8], rcx
    lea rcx, [rsp+8]
    mov [rdi+0xa0], rcx
    mov r12, rsi
    mov eax, 14
    syscall
    cmp rax, -4095
    jae 1f
    mov rdx, r12
    mov rsp, [rdx+0xa0]
    mov rbx, [rdx+0x80]
    mov rbp, [rdx+0x78]
    mov r12, [rdx+0x48]
    mov r13, [rdx+0x50]
    mov r14, [rdx+0x58]
    mov r15, [rdx+0x60]
    mov rcx, [rdx+0xa8]
    push rcx
    mov rdx, [rdx+0x88]
    xor eax, eax
    ret
1:  or rax, -1
    ret

# The block's maker: it plants a function of its own behind the user's.
.p2align 4
.globl block_maker
block_maker:
    .cfi_startproc
    mov [rdi+0xa8], rsi
    lea rdx, [rip+.Lplanted]
    mov [rcx-8], rdx
    lea rdx, [rcx-8]
    mov [rdi+0xa0], rdx
    ret
    .cfi_endproc
.p2align 4
.globl planted
planted:
.Lplanted:
    .cfi_startproc
    mov rsp, rbx
    pop rdi
    hlt
    .cfi_endproc

# Saving and restoring in two routines, pointers hidden.
.p2align 4
.globl saves_hidden
saves_hidden:
    mov [rdi], rbx
    mov rax, rbp
    xor rax, fs:0x30
    rol rax, 17
    mov [rdi+8], rax
    mov [rdi+0x10], r12
    mov [rdi+0x18], r13
    mov [rdi+0x20], r14
    mov [rdi+0x28], r15
    lea rdx, [rsp+8]
    xor rdx, fs:0x30
    rol rdx, 17
    mov [rdi+0x30], rdx
    mov rax, [rsp]
    xor rax, fs:0x30
    rol rax, 17
    mov [rdi+0x38], rax
    xor eax, eax
    ret
.p2align 4
.globl loads_hidden
loads_hidden:
    mov r8, [rdi+0x30]
    mov r9, [rdi+8]
    mov rdx, [rdi+0x38]
    ror r8, 17
    xor r8, fs:0x30
    ror r9, 17
    xor r9, fs:0x30
    ror rdx, 17
    xor rdx, fs:0x30
    mov rbx, [rdi]
    mov r12, [rdi+0x10]
    mov r13, [rdi+0x18]
    mov r14, [rdi+0x20]
    mov r15, [rdi+0x28]
    mov eax, esi
    mov rsp, r8
    mov rbp, r9
    jmp rdx

# The same, open.
.p2align 4
.globl saves_open
saves_open:
    mov [rdi], rbx
    mov [rdi+8], rbp
    mov [rdi+0x10], r12
    mov [rdi+0x18], r13
    mov [rdi+0x20], r14
    mov [rdi+0x28], r15
    lea rdx, [rsp+8]
    mov [rdi+0x30], rdx
    mov rdx, [rsp]
    mov [rdi+0x38], rdx
    xor eax, eax
    ret
.p2align 4
.globl loads_open
loads_open:
    mov rbx, [rdi]
    mov rbp, [rdi+8]
    mov r12, [rdi+0x10]
    mov r13, [rdi+0x18]
    mov r14, [rdi+0x20]
    mov r15, [rdi+0x28]
    test esi, esi
    mov eax, 1
    cmove esi, eax
    mov eax, esi
    mov rdx, [rdi+0x38]
    mov rsp, [rdi+0x30]
    jmp rdx

# Inlined: the label is called by the resumer, which gives the stack pointer in rdx.
.p2align 4
.globl yields_inline
yields_inline:
    .cfi_startproc
    push rbp
    push r14
    mov rdx, rsi
    push rbp
    push rbx
    lea rax, [rip+.Larrives]
    push rax
    mov rdi, rsp
    mov rsp, [rdx]
    pop rbp
    ret
.globl arrives
arrives:
.Larrives:
    push rbp
    mov [rsi-16], rsp
    lea rsp, [rdx+8]
    pop rbx
    pop rbp
.globl goes_on
goes_on:
    mov rax, rdi
    pop r14
    pop rbp
    ret
    .cfi_endproc

# Inlined: the code that left pops everything and jumps to the label.
.p2align 4
.globl swaps_inline
swaps_inline:
    .cfi_startproc
    lea rax, [rip+.Lswapped]
    push rax
    push rbp
    push rbx
    mov rax, rsp
    mov rsp, rdx
    pop rbx
    pop rbp
    pop rcx
    jmp rcx
.globl swapped
swapped:
.Lswapped:
    mov rax, rdi
    ret
    .cfi_endproc

# A routine that is jumped to with the address to go on at in a register, and a function that does so.
.p2align 4
.globl takes_address
takes_address:
    .cfi_startproc
    push rcx
    push rbp
    push rbx
    mov rsi, rsp
    mov rsp, rdx
    pop rbx
    pop rbp
    ret
    .cfi_endproc
.p2align 4
.globl hands_address
hands_address:
    .cfi_startproc
    push r12
    lea rcx, [rip+.Lcomes_back]
    {disp32} jmp takes_address
.globl comes_back
comes_back:
.Lcomes_back:
    mov rax, rdi
    pop r12
    ret
    .cfi_endproc

# Only the frame pointer is saved: callers give up all else.
.p2align 4
.globl saves_frame_pointer
saves_frame_pointer:
    push rbp
    mov [rsi], rsp
    mov rsp, [rdi]
    pop rbp
    ret

# The frame pointer carries the stack pointer.
.p2align 4
.globl by_frame_pointer
by_frame_pointer:
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rbp
    mov rbp, rsp
    mov [rdi], rbp
    mov rbp, rsi
    mov rsp, rbp
    pop rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    ret

# The same by `leave`, which also pops the frame pointer.
.p2align 4
.globl leaves_frame
leaves_frame:
    push rbp
    mov rbp, rsp
    mov [rdi], rbp
    mov rbp, [rsi]
    leave
    ret

# Both stack pointers in variables of the thread's own.
.p2align 4
.globl thread_local
thread_local:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov fs:[-16], rsp
    mov rsp, fs:[-8]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# The other stack pointer is pushed and popped.
.p2align 4
.globl pops_stack_pointer
pops_stack_pointer:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    push rsi
    pop rsp
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# The distance to the other stack is added.
.p2align 4
.globl adds_distance
adds_distance:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    sub rsi, rsp
    add rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# The lowest bit of the kept stack pointer is used for something else.
.p2align 4
.globl keeps_tag
keeps_tag:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov rax, rsp
    or rax, 1
    mov [rdi], rax
    and rsi, -2
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# A function is handed the stack pointer and returns the next one.
.p2align 4
.globl asks_scheduler
asks_scheduler:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    call variable_length
    mov rsp, rax
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# A function is called on the new stack, before its registers are restored.
.p2align 4
.globl calls_on_new
calls_on_new:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, [rsi]
    mov rdi, rcx
    call rdx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# Where there is a shadow stack, its pointer is saved too.
.p2align 4
.globl two_layouts
two_layouts:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    xor eax, eax
    rdsspq rax
    test rax, rax
    je 2f
    push rax
    mov [rdi], rsp
    mov rsp, rsi
    add rsp, 8
    jmp 3f
2:  mov [rdi], rsp
    mov rsp, rsi
3:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

# Inlined: what was pushed before the label is popped after it.
.p2align 4
.globl pushes_label
pushes_label:
    .cfi_startproc
    lea rsp, [rsp-128]
    push rbp
    push rbx
    lea rax, [rip+.Lpopped]
    push rax
    mov [rdi], rsp
    mov rsp, rsi
    ret
.globl popped
popped:
.Lpopped:
    endbr64
    pop rbx
    pop rbp
    lea rsp, [rsp+128]
    xor eax, eax
    ret
    .cfi_endproc

# The compiler's own setjmp: a label in a block. It does not jump before a function says so.
.p2align 4
.globl saves_label
saves_label:
    .cfi_startproc
    push rbp
    mov rbp, rsp
    lea rax, [rip+.Llanded]
    mov [rdi+8], rax
    mov [rdi], rbp
    mov [rdi+16], rsp
    call rsi
    pop rbp
    ret
.globl landed
landed:
.Llanded:
    mov eax, 1
    pop rbp
    ret
    .cfi_endproc

# A trampoline for fresh stacks.
.p2align 4
.globl begins
begins:
    .cfi_startproc
    push rbp
    mov [rsi-16], rsp
    lea rsp, [rdx+16]
    pop rdi
    call rdi
    hlt
    .cfi_endproc

# None of the following switches stacks.

# A block of variable length, given back by a register and by a frame slot.
.p2align 4
.globl variable_length
variable_length:
    push rbp
    mov rbp, rsp
    push r12
    push rbx
    mov rbx, rsp
    mov [rbp-0x40], rsp
    sub rsp, rdi
    call pushes_all
    mov rsp, rbx
    mov rsp, [rbp-0x40]
    lea rsp, [rbp-0x10]
    pop rbx
    pop r12
    pop rbp
    ret

# The return of an exception to a landing place.
.p2align 4
.globl exception_return
exception_return:
    push rbp
    mov rbp, rsp
    push r15
    push r14
    push r13
    push r12
    push rbx
    sub rsp, 0x200
    lea rsi, [rbp+16]
    call pushes_all
    mov rcx, rax
    mov rbx, [rbp-0x28]
    mov r12, [rbp-0x20]
    lea rcx, [rbp+rcx*1+8]
    mov rbp, [rbp+0]
    mov rsp, rcx
    pop rcx
    jmp rcx

# A call on another stack, which comes back by itself.
.p2align 4
.globl calls_elsewhere
calls_elsewhere:
    push rbp
    mov rbp, rsp
    mov rsp, rcx
    call rdx
    mov rsp, rbp
    pop rbp
    ret

# A jump to another stack that keeps nothing.
.p2align 4
.globl replaces
replaces:
    lea rsp, [rdx-8]
    jmp rsi

# The compiler's own longjmp: three words, no registers.
.p2align 4
.globl short_jump
short_jump:
    mov rax, [rdi+8]
    mov rcx, [rdi]
    mov rsp, [rdi+16]
    mov rbp, rcx
    jmp rax

# A language runtime that has no callee-saved registers.
.p2align 4
.globl managed
managed:
    mov rdi, [r14+0x30]
    mov [r14+0x38], rsp
    mov [r14+0x60], rbp
    mov rsp, [rdi+0x38]
    mov rbp, [rdi+0x60]
    mov rbx, [rdi+0x40]
    jmp rbx
