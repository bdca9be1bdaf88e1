/* Brings a library's code back page by page when it is first run.
 *
 * `tfslim slim --host-code cold` takes the code (.text) of a large library out of its file, puts it
 * into a side file (sidefile.py describes it), and makes this small library one that the large one
 * needs. The dynamic loader therefore maps both, and calls init() below before any code of the
 * large one. What models usually run is mapped from the side file as it is ("hot"); the rest is
 * kept compressed, and its pages may not be touched: touching one raises SIGSEGV, and the handler
 * decompresses its chunk, makes it executable, and moves it to its place in one step, so that other
 * threads see nothing or all of it.
 *
 * The handler calls only what a handler may call (signal-safety(7)) and keeps no state between
 * faults: threads and forked children need no lock. Restoring a chunk twice at once is harmless:
 * both bring the same bytes.
 *
 * Others may want SIGSEGV, too (Python's faulthandler, crash reporters). Whoever asks for it after
 * us is noted and called for every fault that is not ours: sigaction() and signal() of all objects
 * that are loaded by then lead to us. See docs/host-code.md for what is left.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#define PAGE 4096UL
#define EXIT_BROKEN 79

/* The side file's parts; sidefile.py has the same. Numbers are little-endian. */
struct header {
    char magic[8];
    uint64_t text, text_size;     /* address and bytes of the code, whole pages */
    uint64_t library_size;        /* bytes of the library's file: it must be the same one */
    uint64_t chunk;               /* bytes of cold code in a chunk */
    uint64_t runs, chunks;        /* lengths of the two tables that follow */
    uint64_t hot;                 /* offset of hot code, a whole page */
    uint64_t dictionary;          /* bytes of hot code that chunks were compressed with */
};
struct run { uint64_t address, size, stream; };   /* cold pages; stream: bytes of cold code before */
struct chunk { uint64_t offset, size; };

static const struct header *side;
static const struct run *runs;
static const struct chunk *chunks;
static uintptr_t base;
static size_t workspace;
static int log_file = -1;
static struct sigaction others;
static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);

static void say(const char *text)
{
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
}

static void give_up(const char *why)
{
    say("tfslim: code that was put aside (--host-code cold) cannot be brought back: ");
    say(why);
    say("\n");
    _exit(EXIT_BROKEN);
}

/* --- bringing code back --------------------------------------------------------------------- */

static const struct run *run_of(uintptr_t address)
{
    size_t low = 0, high = side->runs;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (runs[middle].address + runs[middle].size <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < side->runs && runs[low].address <= address ? &runs[low] : NULL;
}

static void *memory(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        give_up("no memory");
    return at;
}

static void note(uintptr_t address)
{
    char line[17];
    for (int i = 15; i >= 0; i--, address >>= 4)
        line[i] = "0123456789abcdef"[address & 15];
    line[16] = '\n';
    ssize_t ignored = write(log_file, line, sizeof line);
    (void)ignored;
}

static uint64_t stream_size(void)
{
    const struct run *last = &runs[side->runs - 1];
    return last->stream + last->size;
}

/* Move the parts of a decompressed chunk to the runs of pages that they belong to. */
static void place(const struct run *run, char *code, uint64_t start, uint64_t end)
{
    while (run > runs && run->stream > start)
        run--;
    for (; run < runs + side->runs && run->stream < end; run++) {
        uint64_t from = run->stream > start ? run->stream : start;
        uint64_t to = run->stream + run->size < end ? run->stream + run->size : end;
        void *target = (void *)(base + run->address + (from - run->stream));
        if (mremap(code + (from - start), to - from, to - from, MREMAP_MAYMOVE | MREMAP_FIXED,
                   target) != target)
            give_up("its pages cannot be moved to their place");
    }
}

static void bring_back(const struct run *run, uintptr_t address)
{
    uint64_t number = (run->stream + (address - run->address)) / side->chunk;
    uint64_t start = number * side->chunk, end = start + side->chunk;
    if (end > stream_size())
        end = stream_size();
    char *code = memory(end - start);
    void *scratch = memory(workspace);
    ZSTD_DCtx *context = ZSTD_initStaticDCtx(scratch, workspace);
    const char *packed = (const char *)side + chunks[number].offset;
    if (ZSTD_decompress_usingDict(context, code, end - start, packed, chunks[number].size,
                                  (const char *)side + side->hot, side->dictionary)
        != end - start)
        give_up("the side file is damaged");
    munmap(scratch, workspace);
    if (mprotect(code, end - start, PROT_READ | PROT_EXEC))
        give_up("memory may not be made executable here");
    place(run, code, start, end);
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    uintptr_t address = (uintptr_t)info->si_addr - base;
    const struct run *run = info->si_code == SEGV_ACCERR ? run_of(address) : NULL;
    if (run) {
        if (log_file >= 0)
            note(address & ~(PAGE - 1));
        bring_back(run, address);
    } else if (others.sa_flags & SA_SIGINFO) {
        others.sa_sigaction(number, info, context);
    } else if (others.sa_handler != SIG_DFL && others.sa_handler != SIG_IGN) {
        others.sa_handler(number);
    } else {
        /* Nobody wants it: the process ends as it would have without us, at the same place. */
        struct sigaction standard = {.sa_handler = SIG_DFL};
        real_sigaction(number, &standard, NULL);
        if (info->si_code <= 0)
            raise(number);
    }
    errno = saved;
}

/* --- others who want SIGSEGV ---------------------------------------------------------------- */

static int our_sigaction(int number, const struct sigaction *new, struct sigaction *old)
{
    if (number != SIGSEGV)
        return real_sigaction(number, new, old);
    struct sigaction before = others;
    if (new)
        others = *new;
    if (old)
        *old = before;
    return 0;
}

static __sighandler_t our_signal(int number, __sighandler_t handler)
{
    struct sigaction new = {.sa_handler = handler, .sa_flags = SA_RESTART}, old;
    return our_sigaction(number, &new, &old) ? SIG_ERR : old.sa_handler;
}

static void lead_slot(uintptr_t at, void *to, uintptr_t relro, uintptr_t relro_end)
{
    int sealed = at >= relro && at < relro_end;
    void *page = (void *)(at & ~(PAGE - 1));
    if (sealed && mprotect(page, PAGE, PROT_READ | PROT_WRITE))
        return;
    *(void **)at = to;
    if (sealed)
        mprotect(page, PAGE, PROT_READ);
}

/* Lead an object's references to sigaction and signal to ours (ELF-64 gABI; psABI for x86-64). */
static int lead_object(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)size, (void)unused;
    const ElfW(Dyn) *entry = NULL;
    uintptr_t relro = 0, relro_end = 0, bias = object->dlpi_addr;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_DYNAMIC)
            entry = (const void *)(bias + part->p_vaddr);
        if (part->p_type == PT_GNU_RELRO) {
            relro = (bias + part->p_vaddr) & ~(PAGE - 1);
            relro_end = (bias + part->p_vaddr + part->p_memsz) & ~(PAGE - 1);
        }
    }
    const ElfW(Sym) *symbols = NULL;
    const char *strings = NULL;
    struct { const ElfW(Rela) *first; size_t size; } tables[2] = {{0}};
    for (; entry && entry->d_tag != DT_NULL; entry++) {
        /* The C library has made these addresses absolute, except in the kernel's vDSO. */
        const void *at = (const void *)(entry->d_un.d_ptr < bias ? 0 : entry->d_un.d_ptr);
        switch (entry->d_tag) {
        case DT_SYMTAB: symbols = at; break;
        case DT_STRTAB: strings = at; break;
        case DT_JMPREL: tables[0].first = at; break;
        case DT_PLTRELSZ: tables[0].size = entry->d_un.d_val; break;
        case DT_RELA: tables[1].first = at; break;
        case DT_RELASZ: tables[1].size = entry->d_un.d_val; break;
        }
    }
    for (int t = 0; t < 2 && symbols && strings; t++) {
        const ElfW(Rela) *record = tables[t].first;
        for (size_t n = record ? tables[t].size / sizeof *record : 0; n; n--, record++) {
            size_t symbol = ELF64_R_SYM(record->r_info);
            if (!symbol || symbols[symbol].st_shndx != SHN_UNDEF)
                continue;
            const char *name = strings + symbols[symbol].st_name;
            void *to = !strcmp(name, "sigaction") ? (void *)our_sigaction
                     : !strcmp(name, "signal") ? (void *)our_signal : NULL;
            int type = ELF64_R_TYPE(record->r_info);
            if (to && (type == R_X86_64_JUMP_SLOT || type == R_X86_64_GLOB_DAT))
                lead_slot(bias + record->r_offset, to, relro, relro_end);
        }
    }
    return 0;
}

/* --- start ---------------------------------------------------------------------------------- */

/* Find the library by its file, since it may have been loaded by another way to the same place. */
static int find_library(struct dl_phdr_info *object, size_t size, void *wanted)
{
    (void)size;
    const struct stat *library = wanted;
    struct stat found;
    if (!object->dlpi_name || !*object->dlpi_name || stat(object->dlpi_name, &found)
        || found.st_ino != library->st_ino || found.st_dev != library->st_dev)
        return 0;
    base = object->dlpi_addr;
    return 1;
}

/* Map hot code to its place: what lies between the runs of cold pages. */
static void map_hot(int file)
{
    uint64_t at = side->text, offset = side->hot;
    for (size_t i = 0; i <= side->runs; i++) {
        uint64_t end = i < side->runs ? runs[i].address : side->text + side->text_size;
        if (end > at && mmap((void *)(base + at), end - at, PROT_READ | PROT_EXEC,
                             MAP_PRIVATE | MAP_FIXED, file, offset) == MAP_FAILED)
            give_up("the side file cannot be mapped for execution");
        offset += end - at;
        at = i < side->runs ? end + runs[i].size : end;
    }
}

/* This file is called LIBRARY.so; the side file LIBRARY.cold, and the library itself LIBRARY. */
__attribute__((constructor)) static void init(void)
{
    Dl_info own;
    char path[4096];
    struct stat library, whole;
    if (!dladdr((void *)init, &own) || strlen(own.dli_fname) + 3 > sizeof path)
        give_up("its own place is not known");
    strcpy(path, own.dli_fname);
    char *end = path + strlen(path) - strlen(".so");
    *end = '\0';
    if (stat(path, &library))
        give_up("the library's file is gone");
    if (!dl_iterate_phdr(find_library, &library))
        return; /* loaded by somebody else, for some other reason */
    strcpy(end, ".cold");
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &whole) || whole.st_size < (off_t)sizeof *side)
        give_up("the side file (.cold) is missing or empty");
    side = mmap(NULL, whole.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (side == MAP_FAILED)
        give_up("the side file cannot be mapped");
    if (memcmp(side->magic, "TFSCOLD2", 8) || side->library_size != (uint64_t)library.st_size)
        give_up("the side file (.cold) belongs to another file");
    runs = (const void *)(side + 1);
    chunks = (const void *)(runs + side->runs);
    workspace = (ZSTD_estimateDCtxSize() + PAGE - 1) & ~(PAGE - 1);
    if (mprotect((void *)(base + side->text), side->text_size, PROT_NONE))
        give_up("its pages cannot be protected");
    map_hot(file);
    close(file);
    const char *wish = getenv("TFSLIM_COLD_LOG");
    if (wish)
        log_file = open(wish, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    real_sigaction = sigaction;
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGSEGV, &action, &others);
    dl_iterate_phdr(lead_object, NULL);
}
