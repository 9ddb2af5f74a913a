import Backup
import BackupStore
import BlockIO
import Foundation
import LinuxSystem
import TestSupport
import Testing
import Transport

/// The agent of the build, reached through a real sshd.
private struct Host {
    static let program = builtProgram("godwit")
    static let isThere = SSHServer.isInstalled && program != nil

    let server: SSHServer
    let folder: TemporaryFolder
    let storePath: String

    init() throws {
        server = try SSHServer()
        folder = try TemporaryFolder()
        storePath = folder.file("store")
    }

    /// - Parameter command: with the agent's in place of `@`.
    func connect(_ command: String = "@") throws -> MessageChannel {
        let agent = "'\(Self.program ?? "")' agent --stdio"
        var options = SSHOptions()
        options.configurationFile = server.configurationFile
        options.command = command.replacingOccurrences(of: "@", with: agent)
        return try MessageChannel(
            stream: try SSHConnection.open(SSHTarget(parsing: "far"), options: options), peerName: "far")
    }

    func create() throws {
        try RemoteStore.create(
            peer: try connect(), folder: storePath, address: "ssh://far/store", uuid: "uuid", chunkBytes: 65536)
    }

    func store(_ command: String = "@") throws -> RemoteStore {
        try RemoteStore(peer: try connect(command), folder: storePath, address: "ssh://far/store")
    }
}

@Suite(.enabled(if: Host.isThere, "needs sshd and the built godwit"))
struct RemoteRoundTripTests {
    private func job(_ disk: MemorySource, base: BackupJob.Base? = nil, time: UInt64 = 1) -> BackupJob {
        BackupJob(
            disk: "disk-1", name: "test", snapshot: disk.freeze(),
            time: 1_700_000_000_000_000_000 + time * 1_000_000_000,
            base: base)
    }

    @Test func `backups over SSH restore as they were`() throws {
        let host = try Host()
        try host.create()
        var random = SeededRandom(seed: 11)
        let disk = MemorySource(byteCount: 70 << 20, clusterBytes: 1 << 20)
        disk.write(random.bytes(40 << 20), at: 20 << 20)
        let store = try host.store()
        let first = try job(disk).run(source: disk, store: store)
        let before = disk.content
        disk.write(random.bytes(3 << 20), at: 7 << 20)
        let base = BackupJob.Base(point: first.point, snapshot: "state-1")
        let second = try job(disk, base: base, time: 2).run(source: disk, store: store)
        #expect(second.statistics.isIncremental && second.statistics.clustersChanged == 3)
        let fs = LinuxFileSystem()
        for (point, content) in [(first.point, before), (second.point, disk.content)] {
            let path = host.folder.file("out")
            _ = try RestoreJob(point: point, target: .raw(file: path)).run(store: store, in: fs)
            #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(content))
            try fs.remove(path)
        }
        let report = try VerifyJob().run(store: store)
        #expect(report.isSound, "\(report.problems)")
        store.close()
    }

    // Unbuffered, so that what comes before the cut does not wait in the pipe.
    @Test(
        "a link that is cut anywhere leaves nothing that counts, and the next backup succeeds",
        arguments: [
            "stdbuf -o0 head -c 40 | @", "stdbuf -o0 head -c 300 | @", "stdbuf -o0 head -c 200000 | @",
            "stdbuf -o0 head -c 9000000 | @", "stdbuf -o0 head -c 30000000 | @", "@ | stdbuf -o0 head -c 120",
        ])
    func cut(command: String) throws {
        let host = try Host()
        try host.create()
        var random = SeededRandom(seed: 12)
        let disk = MemorySource(byteCount: 48 << 20, clusterBytes: 1 << 20)
        disk.write(random.bytes(40 << 20), at: 0)
        let error = #expect(throws: (any Error).self) {
            let store = try host.store(command)
            defer { store.close() }
            _ = try job(disk).run(source: disk, store: store)
        }
        if let error = error as? StoreError { #expect(error.code == .remote, "\(error)") }
        let fs = LinuxFileSystem()
        let local = try LocalStore(opening: host.storePath, in: fs)
        #expect(try local.list(.point) == [])
        let report = try VerifyJob().run(store: local)
        #expect(report.isSound, "\(report.problems)")
        var kept = 0
        for object in try local.list(.pack) {
            let directory = try local.packDirectory(object.name, byteCount: object.byteCount)
            for frame in directory.frames where !frame.isNodes { kept += Int(frame.plainBytes) }
        }
        local.close()
        let store = try host.store()
        let outcome = try job(disk).run(source: disk, store: store)
        // The far side's process may have been at its end only now, and have kept more.
        #expect(Int(outcome.statistics.bytesNew) <= 40 << 20 - kept)
        if command.contains("30000000") { #expect(Int(outcome.statistics.bytesNew) < 20 << 20, "most was there") }
        let point = outcome.point
        let path = host.folder.file("out")
        _ = try RestoreJob(point: point, target: .raw(file: path)).run(store: store, in: fs)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(disk.content))
        store.close()
    }
}
