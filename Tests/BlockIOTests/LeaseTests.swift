import BlockIO
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@Suite struct LeaseTests {
    private func lease(_ fs: any FileSystem, _ path: String, _ kind: LeaseKind) throws -> (any HeldLease)? {
        guard case .held(let lease) = try fs.lease(path, kind) else { return nil }
        return lease
    }

    @Test("many read, or one changes", arguments: Backend.allCases)
    func kinds(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let (fs, path) = (bench.fileSystem, bench.path("file"))
        let file = try bench.file()
        var first = try lease(fs, path, .shared)
        var second = try lease(fs, path, .shared)
        #expect(first != nil && second != nil)
        #expect(try first?.file == file.identity())
        #expect(try fs.identity(of: path) == file.identity())
        #expect(try lease(fs, path, .exclusive) == nil)
        #expect(try fs.lock(path, wait: false) == nil)
        first = nil
        #expect(try lease(fs, path, .exclusive) == nil)
        second = nil
        var writer = try lease(fs, path, .exclusive)
        #expect(writer != nil)
        #expect(try lease(fs, path, .shared) == nil)
        #expect(try lease(fs, path, .exclusive) == nil)
        writer = nil
        #expect(try lease(fs, path, .shared) != nil)
    }

    @Test("a lease is of the file, not of its name", arguments: Backend.allCases)
    func renamed(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let (fs, path) = (bench.fileSystem, bench.path("file"))
        let file = try bench.file()
        let held = try lease(fs, path, .exclusive)
        try fs.rename(path, to: bench.path("other"))
        #expect(try fs.identity(of: path) == nil)
        let replacement = try bench.file()
        #expect(try replacement.identity() != file.identity())
        #expect(try lease(fs, path, .exclusive) != nil)
        #expect(try lease(fs, bench.path("other"), .shared) == nil)
        #expect(held?.file == (try file.identity()))
        #expect(throws: SystemError.self) { _ = try fs.lease(bench.path("none"), .shared) }
    }

    @Test("a refusal names the processes that have the file, and a dead one has none")
    func holders() throws {
        let bench = try Bench(.linux)
        let path = bench.path("file")
        _ = try bench.file()
        let output = try Pipe()
        let holder = try ChildProcess(
            "flock", ["-s", path, "sh", "-c", "echo; exec cat /dev/zero >/dev/null"],
            output: .descriptor(output.writing.number), newGroup: true)
        #expect(try output.reading.readSome(upTo: 1).count == 1)
        #expect(try lease(bench.fileSystem, path, .shared) != nil)
        guard case .refused(let holders) = try bench.fileSystem.lease(path, .exclusive) else {
            Issue.record("it was given")
            return
        }
        #expect(holders.contains { $0.process == holder.identifier && !$0.name.isEmpty }, "\(holders)")
        try expectTool("kill", "-9", "--", "-\(holder.identifier)")
        _ = try holder.wait()
        // Its child lets go a moment later.
        _ = try bench.fileSystem.lock(path, wait: true)
        #expect(try lease(bench.fileSystem, path, .exclusive) != nil)
    }

    @Test("of several who claim a folder at once one has it") func claims() throws {
        let folder = try TemporaryFolder()
        for round in 0..<40 {
            let held = Mutex<[any HeldLease]>([])
            let threads = try (0..<2).map { _ in
                try OwnThread(name: "claim") {
                    if let claim = try? LinuxFileSystem().claim(folder.path) { held.withLock { $0.append(claim) } }
                }
            }
            for thread in threads { thread.join() }
            #expect(held.withLock { $0.count } == 1, "round \(round)")
        }
    }
}
