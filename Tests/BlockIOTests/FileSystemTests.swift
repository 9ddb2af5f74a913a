import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// What every kind of file system must do.
@Suite struct FileSystemTests {
    private func errno(_ body: () throws -> Void) -> Errno? {
        do { try body() } catch { return (error as? SystemError)?.errno }
        return nil
    }

    @Test("files open as their mode says", arguments: Backend.allCases)
    func opening(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let (fileSystem, path) = (bench.fileSystem, bench.path("a"))
        #expect(errno { _ = try fileSystem.open(path, .read) } == .noSuchFileOrDirectory)
        #expect(
            errno { _ = try fileSystem.open(bench.path("no/a"), OpenMode(writable: true, creation: .exclusive)) }
                == .noSuchFileOrDirectory)
        let made = OpenMode(writable: true, creation: .exclusive, direct: backend.isDirect)
        try fileSystem.open(path, made).put([UInt8](repeating: 1, count: 4096), at: 0)
        #expect(errno { _ = try fileSystem.open(path, made) } == .fileExists)
        #expect(try fileSystem.open(path, OpenMode(writable: true, creation: .ifMissing)).size() == 4096)
        #expect(errno { try fileSystem.open(path, .read).writeBytes([1], at: 0) } == .badFileDescriptor)
        let emptied = OpenMode(writable: true, creation: .replace, direct: backend.isDirect)
        #expect(try fileSystem.open(path, emptied).size() == 0)
    }

    @Test("names are made, moved, listed and removed", arguments: Backend.allCases)
    func names(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let fileSystem = bench.fileSystem
        try fileSystem.replaceContents(of: bench.path("b"), with: [1, 2])
        try fileSystem.replaceContents(of: bench.path("a"), with: [3])
        try fileSystem.createFolder(bench.path("c"))
        #expect(errno { try fileSystem.createFolder(bench.path("c")) } == .fileExists)
        #expect(try fileSystem.list(bench.folder) == ["a", "b", "c"])
        #expect(try fileSystem.isFolder(bench.path("c")))
        #expect(try !fileSystem.isFolder(bench.path("a")))
        #expect(try !fileSystem.exists(bench.path("d")))
        let open = try fileSystem.open(bench.path("b"), .read)
        try fileSystem.rename(bench.path("a"), to: bench.path("b"))
        #expect(try fileSystem.contents(of: bench.path("b"), limit: 10) == [3])
        // Who has the replaced file open keeps it.
        #expect(try open.readBytes(at: 0, count: 2) == [1, 2])
        #expect(try fileSystem.list(bench.folder) == ["b", "c"])
        try fileSystem.rename(bench.path("b"), to: bench.path("c/e"))
        #expect(errno { try fileSystem.removeFolder(bench.path("c")) } == .directoryNotEmpty)
        #expect(errno { try fileSystem.rename(bench.path("no"), to: bench.path("x")) } == .noSuchFileOrDirectory)
        #expect(errno { try fileSystem.remove(bench.path("no")) } == .noSuchFileOrDirectory)
        try fileSystem.remove(bench.path("c/e"))
        try fileSystem.synchronizeFolder(bench.path("c"))
        try fileSystem.removeFolder(bench.path("c"))
        #expect(try fileSystem.list(bench.folder).isEmpty)
        #expect(errno { _ = try fileSystem.list(bench.path("c")) } == .noSuchFileOrDirectory)
    }

    @Test("a file over the limit is not read", arguments: Backend.allCases)
    func limits(_ backend: Backend) throws {
        let bench = try Bench(backend)
        try bench.fileSystem.replaceContents(of: bench.path("a"), with: [1, 2, 3])
        #expect(errno { _ = try bench.fileSystem.contents(of: bench.path("a"), limit: 2) } == .fileTooLarge)
        #expect(try bench.fileSystem.contents(of: bench.path("a"), limit: 3) == [1, 2, 3])
    }

    @Test("a lock has one holder", arguments: Backend.allCases)
    func locks(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let path = bench.path("lock")
        var held = try bench.fileSystem.lock(path, wait: false)
        #expect(held != nil)
        #expect(try bench.fileSystem.lock(path, wait: false) == nil)
        held = nil
        #expect(try bench.fileSystem.lock(path, wait: true) != nil)
    }

    @Test("a dead holder leaves no lock behind")
    func lockOfTheDead() throws {
        let bench = try Bench(.linux)
        let path = bench.path("lock")
        let output = try Pipe()
        let holder = try ChildProcess(
            "flock", [path, "sh", "-c", "echo; exec cat /dev/zero >/dev/null"],
            output: .descriptor(output.writing.number), newGroup: true)
        #expect(try output.reading.readSome(upTo: 1).count == 1)
        #expect(try bench.fileSystem.lock(path, wait: false) == nil)
        try expectTool("kill", "-9", "--", "-\(holder.identifier)")
        _ = try holder.wait()
        #expect(try bench.fileSystem.lock(path, wait: true) != nil)
    }

    @Test("paths resolve to one name", arguments: Backend.allCases)
    func resolving(_ backend: Backend) throws {
        let bench = try Bench(backend)
        try bench.fileSystem.createFolder(bench.path("c"))
        #expect(try bench.fileSystem.resolve("\(bench.folder)//c/../c/.") == bench.path("c"))
        #expect(errno { _ = try bench.fileSystem.resolve(bench.path("no")) } == .noSuchFileOrDirectory)
        let space = try bench.fileSystem.space(at: bench.folder)
        #expect(space.freeBytes <= space.totalBytes && space.freeBytes > 0)
    }

    @Test("a pipe or a socket in a file's place is an error at once", arguments: ["pipe", "socket", "/dev/null"])
    func streams(_ name: String) throws {
        let bench = try Bench(.linux)
        let files = bench.fileSystem
        let path = name == "/dev/null" ? name : bench.path(name)
        if name == "pipe" { try expectTool("mkfifo", path) }
        // It stays when nobody listens at it any more.
        if name == "socket" { _ = try UnixSocket.listen(at: path) }
        // Somebody at the pipe's other end, so that nothing hangs that waits for one.
        let input = try Pipe()
        let output = try Pipe()
        let holder = try ChildProcess(
            "sh", ["-c", "[ \"$2\" != pipe ] || exec 3<> \"$1\"; echo; read -r line", "sh", path, name],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number))
        #expect(try output.reading.readSome(upTo: 1).count == 1)
        let modes = [
            OpenMode.read, .update, OpenMode(writable: false, direct: true),
            OpenMode(writable: true, creation: .replace), OpenMode(writable: true, creation: .ifMissing),
        ]
        for mode in modes { #expect(errno { _ = try files.open(path, mode) } == .illegalSeek, "\(mode)") }
        #expect(errno { _ = try files.lease(path, .shared) } == .illegalSeek)
        #expect(errno { _ = try files.lease(path, .exclusive) } == .illegalSeek)
        #expect(errno { _ = try files.lock(path, wait: false) } == .illegalSeek)
        #expect(errno { _ = try files.contents(of: path, limit: 10) } == .illegalSeek)
        #expect(errno { _ = try openDescriptor(path, writable: true) } == .illegalSeek)
        #expect(errno { _ = try openLog(path) } == .illegalSeek)
        #expect(errno { _ = try kernelText(path) } == .illegalSeek)
        try holder.send(Signal.kill)
        _ = try holder.wait()
        withExtendedLifetime(input) {}
    }

    @Test("a name that is no UTF-8 is not taken for another")
    func namesThatAreNoText() throws {
        let bench = try Bench(.linux)
        let files = bench.fileSystem
        try files.replaceContents(of: bench.path("a\u{FFFD}"), with: [1])
        try expectTool(
            "sh", "-c", "mkdir \"$1/$(printf 'b\\377')\" && : > \"$1/$(printf 'a\\377')\"", "sh", bench.folder)
        defer { _ = try? runTool("sh", "-c", "rm -r \"$1\"/b*; rm \"$1\"/a*", "sh", bench.folder) }
        let names = try files.list(bench.folder)
        #expect(names.count == 3 && names.contains("a\u{FFFD}"))
        for name in names where name != "a\u{FFFD}" {
            #expect(errno { try files.remove(bench.path(name)) } == .fileNameTooLong)
            #expect(errno { _ = try files.open(bench.path(name), .read) } == .fileNameTooLong)
            #expect(errno { _ = try files.exists(bench.path(name)) } == .fileNameTooLong)
        }
        try expectTool("sh", "-c", "ln -s b* \"$1/link\"; cd \"$1\" && ln -sfn b* link", "sh", bench.folder)
        #expect(errno { _ = try files.resolve(bench.path("link")) } == .illegalByteSequence)
        try files.remove(bench.path("link"))
    }

    @Test("what is made is private to its owner")
    func modes() throws {
        let bench = try Bench(.linux)
        try bench.fileSystem.replaceContents(of: bench.path("a"), with: [])
        try bench.fileSystem.createFolder(bench.path("b"))
        #expect(try expectTool("stat", "-c", "%a", bench.path("a"), bench.path("b")) == "600\n700\n")
    }
}
