//! The program's first instructions, before the C library's.
//!
//! A command that makes processes for containers executes itself again out of their reach
//! ([`skep_runtime::selfexe`]). Most of what a start of a small static program takes is the C library asking the
//! processor for its caches, and under a hypervisor each of those questions is answered by the hypervisor: more than a
//! millisecond in all. So the second start is asked for before the first one has begun: these instructions look for a
//! command's name among the arguments, and do what `selfexe::seal` does with five system calls. Whatever does not work
//! here is left to it, and to its errors.
//!
//! The C library then calls [`main`], and not the standard library: that would look for the end of the stack in
//! `/proc/self/maps` and set up a second one, to tell of overflows in the words of Rust.
#![allow(unsafe_code)]

/// What the C library calls. `std::env::args` has the arguments from it by itself.
#[cfg(not(test))]
// SAFETY: there is no other function of this name in the program: see `no_main`.
#[unsafe(no_mangle)]
extern "C" fn main() -> std::ffi::c_int {
    // SAFETY: ignoring a signal has no preconditions. A pipe whose reader is gone is to be an error.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    crate::program().into()
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::global_asm;

    // The linker is told to start here (build.rs). Nothing is relocated yet and no thread-local storage exists: the
    // code uses the stack, registers and addresses relative to itself alone, and leaves the stack and rdx (the address
    // of a function for atexit(3), System V ABI) as it found them.
    //
    // The last string of the stack is the program's name and eight bytes of zero come after it, so that four bytes of
    // any argument can be read at once.
    global_asm!(
        ".pushsection .text.skep_start, \"ax\", @progbits",
        ".globl skep_start",
        ".type skep_start, @function",
        "skep_start:",
        "    mov r12, rsp",
        "    mov r13, rdx",
        "    lea rbx, [rsp + 8]",
        // Is there an argument "run", "exec" or "create"?
        "2:  add rbx, 8",
        "    mov rax, [rbx]",
        "    test rax, rax",
        "    jz 9f",
        "    mov ecx, [rax]",
        "    cmp ecx, {run}",
        "    je 4f",
        "    cmp ecx, {exec}",
        "    jne 3f",
        "    cmp byte ptr [rax + 4], 0",
        "    je 4f",
        "3:  cmp ecx, {crea}",
        "    jne 2b",
        "    cmp word ptr [rax + 4], {te}",
        "    jne 2b",
        "    cmp byte ptr [rax + 6], 0",
        "    jne 2b",
        // statfs(2) of the program: is it on a read-only mount already?
        "4:  sub rsp, 256",
        "    mov eax, {sys_statfs}",
        "    lea rdi, [rip + 7f]",
        "    mov rsi, rsp",
        "    syscall",
        "    test rax, rax",
        "    js 9f",
        "    test qword ptr [rsp + {f_flags}], {st_rdonly}",
        "    jnz 9f",
        // open_tree(2): a mount of this one file, attached nowhere.
        "    mov eax, {sys_open_tree}",
        "    mov edi, {at_fdcwd}",
        "    movsxd rdi, edi",
        "    lea rsi, [rip + 7f]",
        "    mov edx, {open_tree_flags}",
        "    syscall",
        "    test rax, rax",
        "    js 9f",
        "    mov r14, rax",
        // mount_setattr(2): read-only.
        "    mov qword ptr [rsp], {mount_attr_rdonly}",
        "    mov qword ptr [rsp + 8], 0",
        "    mov qword ptr [rsp + 16], 0",
        "    mov qword ptr [rsp + 24], 0",
        "    mov eax, {sys_mount_setattr}",
        "    mov rdi, r14",
        "    lea rsi, [rip + 8f]",
        "    mov edx, {at_empty_path}",
        "    mov r10, rsp",
        "    mov r8d, 32",
        "    syscall",
        "    test rax, rax",
        "    js 9f",
        // execveat(2): arguments and environment as they are.
        "    mov eax, {sys_execveat}",
        "    mov rdi, r14",
        "    lea rsi, [rip + 8f]",
        "    lea rdx, [r12 + 8]",
        "    mov rcx, [r12]",
        "    lea r10, [r12 + rcx * 8 + 16]",
        "    mov r8d, {at_empty_path}",
        "    syscall",
        "9:  mov rsp, r12",
        "    mov rdx, r13",
        "    jmp _start",
        "7:  .asciz \"/proc/self/exe\"",
        "8:  .byte 0",
        ".popsection",
        run = const u32::from_le_bytes(*b"run\0"),
        exec = const u32::from_le_bytes(*b"exec"),
        crea = const u32::from_le_bytes(*b"crea"),
        te = const u16::from_le_bytes(*b"te"),
        sys_statfs = const libc::SYS_statfs,
        sys_open_tree = const libc::SYS_open_tree,
        sys_mount_setattr = const libc::SYS_mount_setattr,
        sys_execveat = const libc::SYS_execveat,
        // The field has no name in the C library's structure; it follows this one (asm-generic/statfs.h).
        f_flags = const std::mem::offset_of!(libc::statfs, f_frsize) + size_of::<libc::__fsword_t>(),
        st_rdonly = const libc::ST_RDONLY,
        at_fdcwd = const libc::AT_FDCWD,
        at_empty_path = const libc::AT_EMPTY_PATH,
        open_tree_flags = const libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC,
        mount_attr_rdonly = const libc::MOUNT_ATTR_RDONLY,
    );
}
