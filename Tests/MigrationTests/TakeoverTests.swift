import BlockIO
import ChunkTree
import Codecs
import DeltaStream
import LinuxSystem
@testable import Migration
import Synchronization
import TestSupport
import Testing
import Transport

/// A source that says what the test wants, to a target in earnest.
private struct RawSource {
    let host: TargetHost
    static let bytes = 1 << 20
    static let offer = MigrationOffer(
        identity: "disk", sizeBytes: UInt64(bytes), clusterBytes: 1 << 20, imageVersion: 2, usedBytes: 0,
        chunkBytes: 65536)

    func connect() throws -> MigrationLink { try host.target.connect() }

    /// A copy of zeros. - Returns: its digest.
    @discardableResult
    func send(_ link: MigrationLink, attempt: String, root: Digest? = nil) throws -> Digest {
        _ = try link.call(.begin(Self.offer, attempt: attempt), onLeaves: { _ in })
        var stream: [UInt8] = []
        let header = try #require(StreamHeader(diskBytes: UInt64(Self.bytes), alignment: 65536))
        var encoder = StreamEncoder(header, to: &stream)
        let ours = try Self.root
        encoder.finish(root: root ?? ours, to: &stream)
        try link.append(stream)
        try link.drain()
        return ours
    }

    static var root: Digest {
        get throws {
            let file = try SimulatedFileSystem().open("/tree", OpenMode(writable: true, creation: .exclusive))
            return try HashTreeFile(file, shape: .init(byteCount: UInt64(bytes), chunkBytes: 65536)).root()
        }
    }

    func commit(attempt: String) throws -> MigrationCommit {
        MigrationCommit(
            identity: "disk", attempt: attempt, root: try Self.root.description, sizeBytes: UInt64(Self.bytes))
    }

    /// A prepared copy whose source has hung up.
    func prepared(attempt: String) throws {
        let link = try connect()
        try send(link, attempt: attempt)
        _ = try link.call(.prepare)
        link.close()
        host.settle()
    }

    /// Over a connection of its own. - Returns: why the guest was not started.
    func ask(_ commit: MigrationCommit) throws -> String? {
        let link = try connect()
        defer { link.close() }
        guard case .active(_, let failure) = try link.call(.commit(commit)) else {
            throw MigrationError(.protocolViolation, "no reply to a commit")
        }
        return failure
    }
}

@Suite struct TakeoverTests {
    private let temporary: TemporaryFolder
    private let fs = LinuxFileSystem()
    private let host: TargetHost
    private let source: RawSource

    init() throws {
        temporary = try TemporaryFolder()
        host = TargetHost(fs: fs, folder: temporary.file("disk"))
        source = RawSource(host: host)
    }

    private var isInPlace: Bool { (try? fs.exists(host.folder)) == true }
    private var starts: Int { host.guest.state.withLock { $0.starts } }

    private func expectRefused(_ commit: MigrationCommit, _ what: Comment) {
        #expect(what) { _ = try source.ask(commit) } throws: {
            [.refused, .protocolViolation].contains(($0 as? MigrationError)?.code)
        }
        #expect(!isInPlace && starts == 0, what)
    }

    @Test("a commit without a prepare is refused, on the same connection and on another one")
    func withoutPrepare() throws {
        let link = try source.connect()
        try source.send(link, attempt: "one")
        #expect { _ = try link.call(.commit(source.commit(attempt: "one"))) } throws: {
            ($0 as? MigrationError)?.code == .protocolViolation
        }
        link.close()
        host.settle()
        expectRefused(try source.commit(attempt: "one"), "after a hang-up")
    }

    @Test("a command that the peer may not have run is on no record, so that nobody runs it later")
    func forbiddenCommand() throws {
        try source.prepared(attempt: "one")
        host.guest.state.withLock { $0.refusesCommands = true }
        var commit = try source.commit(attempt: "one")
        commit.startCommand = "evil"
        for _ in 0..<2 {
            #expect(try source.ask(commit)?.contains("runs no commands of a peer") == true)
            host.settle()
            let record = String(
                decoding: try fs.contents(of: "\(host.folder)/godwit-arrived.json", limit: 1 << 20), as: UTF8.self)
            #expect(isInPlace && starts == 0 && !record.contains("evil"), "\(record)")
        }
        // A recovery may run what is on record; that there is nothing does not say that there is no guest.
        host.guest.state.withLock { $0.refusesCommands = false }
        #expect(try host.receiver.resume(folder: host.folder)?.startFailure?.contains("--start-command") == true)
        #expect(starts == 0)
        let told = MigrationReceiver(
            fs: fs, disks: host.disks, guest: ToldGuest(guest: host.guest), boot: host.boot.withLock { $0 })
        #expect(try told.resume(folder: host.folder) == ArrivedDisk(startFailure: nil))
        #expect(host.guest.state.withLock { $0.commands } == [nil])
        #expect(try source.ask(commit) == nil)
        #expect(starts == 1)
    }

    @Test("what a start hook has to say without end fits into the record, which is read again")
    func longFailure() throws {
        try source.prepared(attempt: "one")
        host.guest.state.withLock {
            $0.failingStarts = 2
            $0.failure = String(repeating: "\u{1}", count: 100_000)
        }
        for _ in 0..<2 { #expect(try source.ask(source.commit(attempt: "one")) != nil) }
        #expect(try source.ask(source.commit(attempt: "one")) == nil)
        #expect(starts == 3)
    }

    @Test("a start command that no record has room for is refused before anything is moved")
    func longCommand() throws {
        let link = try source.connect()
        var offer = RawSource.offer
        offer.startCommand = String(repeating: "x", count: 5000)
        guard case .checked(let problems, _) = try link.call(.check(offer)) else {
            throw MigrationError(.protocolViolation, "no reply to a check")
        }
        #expect(problems.contains { $0.contains("too long") })
        link.close()
        host.settle()
    }

    @Test("a copy with another root is never taken over")
    func otherRoot() throws {
        let link = try source.connect()
        let other = Digest.hash([1, 2, 3])
        try source.send(link, attempt: "one", root: other)
        #expect { _ = try link.call(.prepare) } throws: { ($0 as? MigrationError)?.code == .digestMismatch }
        for root in [other, try RawSource.root] {
            var commit = try source.commit(attempt: "one")
            commit.root = root.description
            #expect(throws: MigrationError.self) { _ = try link.call(.commit(commit)) }
        }
        link.close()
        host.settle()
        for root in [other, try RawSource.root] {
            var commit = try source.commit(attempt: "one")
            commit.root = root.description
            expectRefused(commit, "root \(root)")
        }
    }

    @Test("a commit has to name the prepared copy: identity, attempt, digest and size")
    func otherCopies() throws {
        try source.prepared(attempt: "one")
        var wrong = [MigrationCommit](repeating: try source.commit(attempt: "one"), count: 4)
        wrong[0].identity = "other"
        wrong[1].attempt = "other"
        wrong[2].root = Digest.hash([1]).description
        wrong[3].sizeBytes *= 2
        for commit in wrong { expectRefused(commit, "\(commit)") }
        #expect(try source.ask(source.commit(attempt: "one")) == nil)
        #expect(isInPlace && starts == 1)
        // Also of a disk that has arrived.
        for commit in wrong { #expect(throws: MigrationError.self) { _ = try source.ask(commit) } }
        host.settle()
        #expect(starts == 1)
    }

    @Test("a later attempt ends the claim of an earlier one, also when it does not get far")
    func laterAttempt() throws {
        try source.prepared(attempt: "one")
        let link = try source.connect()
        _ = try link.call(.begin(RawSource.offer, attempt: "two"), onLeaves: { _ in })
        link.close()
        host.settle()
        for attempt in ["one", "two"] { expectRefused(try source.commit(attempt: attempt), "attempt \(attempt)") }
    }

    @Test("whoever comes while a migration is under way changes nothing of it")
    func oneAtATime() throws {
        let first = try source.connect()
        try source.send(first, attempt: "one")
        _ = try first.call(.prepare)
        let second = try source.connect()
        #expect { _ = try second.call(.begin(RawSource.offer, attempt: "two"), onLeaves: { _ in }) } throws: {
            ($0 as? MigrationError)?.code == .busy
        }
        second.close()
        guard case .active(_, nil) = try first.call(.commit(source.commit(attempt: "one"))) else {
            throw MigrationError(.target, "the first one was disturbed")
        }
        first.close()
        host.settle()
        #expect(isInPlace && starts == 1)
    }

    @Test("a commit that is asked again while the guest is being started waits for that, and starts nothing")
    func startedOnce() throws {
        try source.prepared(attempt: "one")
        let gate = Monitor((isStarting: false, mayEnd: false))
        host.guest.onStart.withLock {
            $0 = {
                gate.change { $0.isStarting = true }
                _ = gate.wait { $0.mayEnd ? true : nil }
            }
        }
        let commit = try source.commit(attempt: "one")
        let answers = Monitor<[String]>([])
        var threads: [OwnThread] = []
        for number in 0..<3 {
            let source = self.source
            threads.append(
                try OwnThread(name: "commit") {
                    let answer: String
                    do { answer = try source.ask(commit) ?? "started" } catch { answer = "\(error)" }
                    answers.change { $0.append(answer) }
                })
            if number == 0 { _ = gate.wait { $0.isStarting ? true : nil } }
        }
        // Nobody is answered before the start has ended.
        #expect(answers.wait(until: SystemTime().monotonic() + 200_000_000) { $0.isEmpty ? nil : true } == nil)
        gate.change { $0.mayEnd = true }
        for thread in threads { thread.join() }
        #expect(answers.withLock { $0 } == ["started", "started", "started"])
        #expect(starts == 1)
        host.settle()
    }

    @Test("a source whose connection is cut while the guest is being started finds it started once")
    func cutWhileStarting() throws {
        try source.prepared(attempt: "one")
        let commit = try source.commit(attempt: "one")
        let begun = Monitor(false)
        let mayEnd = Monitor(false)
        host.guest.onStart.withLock {
            $0 = {
                begun.change { $0 = true }
                _ = mayEnd.wait { $0 ? true : nil }
            }
        }
        let first = try source.connect()
        let hangUp = first.hangUp
        let cutter = try OwnThread(name: "cut") {
            _ = begun.wait { $0 ? true : nil }
            hangUp()
        }
        #expect(throws: MigrationError.self) { _ = try first.call(.commit(commit)) }
        cutter.join()
        let source = self.source
        let second = try OwnThread(name: "again") { #expect(throws: Never.self) { _ = try source.ask(commit) } }
        mayEnd.change { $0 = true }
        second.join()
        host.settle()
        #expect(starts == 1 && isInPlace)
    }

    @Test("a start that is known to have failed is tried again when it is asked for again, and told which try it is")
    func failedStarts() throws {
        try source.prepared(attempt: "one")
        host.guest.state.withLock { $0.failingStarts = 2 }
        let commit = try source.commit(attempt: "one")
        #expect(try source.ask(commit)?.contains("the start hook failed") == true)
        #expect(try source.ask(commit)?.contains("the start hook failed") == true)
        #expect(try source.ask(commit) == nil)
        #expect(try source.ask(commit) == nil)
        host.settle()
        #expect(host.guest.state.withLock { $0.attempts } == [1, 2, 3])
        #expect(isInPlace)
        // Nothing is left to be done for it.
        #expect(try host.receiver.resume(folder: host.folder) == nil)
        #expect(starts == 3)
    }

    @Test(
        "a guest whose disk was to move on since is not started for the host that it came from",
        arguments: [MigrationFiles.outgoing, MigrationFiles.migrated])
    func movedOn(record: String) throws {
        try source.prepared(attempt: "one")
        host.guest.state.withLock { $0.failingStarts = 1 }
        let commit = try source.commit(attempt: "one")
        #expect(try source.ask(commit)?.contains("the start hook failed") == true)
        host.settle()
        try fs.replaceContents(of: "\(host.folder)/\(record)", with: Array("{}".utf8))
        #expect(try source.ask(commit) == nil)
        #expect(try host.receiver.resume(folder: host.folder) == nil)
        host.settle()
        #expect(starts == 1)
    }

    @Test("a start that was interrupted is not repeated before the host was started anew", arguments: [false, true])
    func interruptedStart(bootsAnew: Bool) throws {
        try source.prepared(attempt: "one")
        let commit = try source.commit(attempt: "one")
        // As if the agent was killed in the start: the journal says so, and no more.
        _ = try source.ask(commit)
        host.settle()
        let path = host.folder + "/godwit-arrived.json"
        var record = try #require(try fs.record(IncomingRecord.self, at: path))
        record.start?.state = .starting
        try fs.store(record, at: path)
        if bootsAnew { host.boot.withLock { $0 = "second" } }
        let failure = try host.receiver.resume(folder: host.folder)?.startFailure
        #expect(bootsAnew ? failure == nil : failure?.contains("interrupted") == true)
        #expect(host.guest.state.withLock { $0.attempts } == (bootsAnew ? [1, 2] : [1]))
        #expect(try (source.ask(commit) == nil) == bootsAnew)
        host.settle()
    }

    @Test("a start that was interrupted is settled by who has looked, and says how")
    func settledStart() throws {
        try source.prepared(attempt: "one")
        _ = try source.ask(try source.commit(attempt: "one"))
        host.settle()
        let path = host.folder + "/godwit-arrived.json"
        var record = try #require(try fs.record(IncomingRecord.self, at: path))
        record.start?.state = .starting
        try fs.store(record, at: path)
        let told = MigrationReceiver(
            fs: fs, disks: host.disks, guest: ToldGuest(guest: host.guest), boot: host.boot.withLock { $0 })
        #expect(try told.resume(folder: host.folder) == ArrivedDisk(startFailure: nil))
        #expect(try told.resume(folder: host.folder)?.startFailure == nil)
        #expect(host.guest.state.withLock { $0.attempts } == [1, 2])
        host.settle()
    }

    private struct ToldGuest: TargetGuest {
        let guest: any TargetGuest
        var isToldHow: Bool { true }
        func objection(to command: String) -> String? { nil }
        func start(folder: String, command: String?, attempt: Int) throws(MigrationError) {
            try guest.start(folder: folder, command: command, attempt: attempt)
        }
    }

    @Test("what a crash of the target left is finished there without the source, but only what was handed over")
    func resumesAlone() throws {
        try source.prepared(attempt: "one")
        #expect(try host.receiver.resume(folder: host.folder) == nil)
        #expect(!isInPlace)
        // The commit was noted, and no more.
        let path = host.folder + ".godwit-partial/godwit-incoming.json"
        var record = try #require(try fs.record(IncomingRecord.self, at: path))
        record.state = .active
        try fs.store(record, at: path)
        #expect(try host.receiver.resume(folder: host.folder) == ArrivedDisk(startFailure: nil))
        #expect(isInPlace && starts == 1)
        #expect(try source.ask(source.commit(attempt: "one")) == nil)
        host.settle()
        #expect(starts == 1)
    }

    @Test("the source's command is known to a target that was interrupted before it began to start the guest")
    func commandOutlivesTheSource() throws {
        try source.prepared(attempt: "one")
        var commit = try source.commit(attempt: "one")
        commit.startCommand = "run it"
        _ = try source.ask(commit)
        host.settle()
        // As it was right after the rename.
        let path = host.folder + "/godwit-arrived.json"
        var record = try #require(try fs.record(IncomingRecord.self, at: path))
        record.start = nil
        try fs.store(record, at: path)
        #expect(try host.receiver.resume(folder: host.folder) == ArrivedDisk(startFailure: nil))
        #expect(host.guest.state.withLock { $0.commands } == ["run it", "run it"])
        host.settle()
    }

    @Test("a copy is not put in place in another folder than it was made in")
    func otherParent() throws {
        try source.prepared(attempt: "one")
        let path = host.folder + ".godwit-partial/godwit-incoming.json"
        var record = try #require(try fs.record(IncomingRecord.self, at: path))
        record.parent?.inode += 1
        try fs.store(record, at: path)
        #expect(throws: MigrationError.self) { _ = try source.ask(source.commit(attempt: "one")) }
        host.settle()
        #expect(!isInPlace && starts == 0)
    }
}
