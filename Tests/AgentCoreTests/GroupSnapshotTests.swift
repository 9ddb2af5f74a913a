import AgentAPI
@testable import AgentCore
import BlockIO
import DiskImage
import LinuxSystem
import Synchronization
import TestSupport
import Testing

/// A guest that writes each number durably to all of its disks, one disk after the other.
private final class NumberingGuest: Sendable {
    let written = Atomic<UInt64>(0)
    let failures = Atomic<Int>(0)
    private let isStopping = Atomic<Bool>(false)
    private let disks: [AttachedHere]
    private let thread = Mutex<OwnThread?>(nil)

    init(_ disks: [AttachedHere]) { self.disks = disks }

    func start() throws {
        let thread = try OwnThread(name: "guest") { [self] in
            while !isStopping.load(ordering: .relaxed) {
                let number = written.load(ordering: .relaxed) + 1
                for disk in disks where (try? disk.write(number)) == nil { failures.add(1, ordering: .relaxed) }
                written.store(number, ordering: .releasing)
            }
        }
        self.thread.withLock { $0 = thread }
    }

    func stop() {
        isStopping.store(true, ordering: .relaxed)
        thread.withLock { $0.take() }?.join()
    }

    /// Until it has written so many more.
    func awaitMore(_ count: UInt64) throws {
        let goal = written.load(ordering: .acquiring) + count
        let limit = SystemTime().monotonic() + 30_000_000_000
        while written.load(ordering: .acquiring) < goal {
            try #require(SystemTime().monotonic() < limit, "the guest's writes do not go on")
        }
    }
}

/// The disks of one guest share one instant, also when nothing of them is mounted on this host.
@Suite(.timeLimit(.minutes(2))) struct GroupSnapshotTests {
    private let folder: TemporaryFolder
    private let attachments: DeviceAttachments

    init() throws {
        folder = try TemporaryFolder()
        attachments = DeviceAttachments(runFolder: folder.file("run"))
    }

    @Test func noDiskIsAheadOfAnEarlierOne() throws {
        let disks = try ["wal", "data", "more"].map { try AttachedHere($0, in: folder, attachments: attachments) }
        let guest = NumberingGuest(disks)
        try guest.start()
        defer { guest.stop() }
        for _ in 0..<20 {
            try guest.awaitMore(3)
            let states = try SnapshotCoordinator(attachments: attachments).snapshot(disks.map(\.path))
            let numbers = try zip(disks, states).map { try $0.number(in: $1.guid) }
            // What is written first is ahead of the others by one write or by none.
            #expect(numbers == numbers.sorted(by: >) && numbers[0] - numbers[2] <= 1, "\(numbers)")
            let switches = states.map(\.switchNanoseconds)
            #expect(switches.allSatisfy { $0 == switches.max() }, "all stood still as long: \(switches)")
            try guest.awaitMore(1)
            for (disk, state) in zip(disks, states) {
                try attachments.control(disk.path).perform(.deleteSnapshot(guid: state.guid))
            }
        }
        guest.stop()
        #expect(guest.failures.load(ordering: .relaxed) == 0)
    }

    @Test func whatCannotShareAnInstantIsUndone() throws {
        let disks = try ["a", "b"].map { try AttachedHere($0, in: folder, attachments: attachments) }
        // Somebody else holds the writes of the second one: a migration at its switch.
        let other = try attachments.control(disks[1].path)
        try other.perform(.pause(deadlineMilliseconds: 60_000))
        let error = #expect(throws: AgentError.self) {
            try SnapshotCoordinator(attachments: attachments).snapshot(disks.map(\.path))
        }
        #expect(error?.code == .busy, "\(String(describing: error))")
        try disks[0].write(7)
        try other.perform(.resume)
        for disk in disks {
            #expect(try attachments.control(disk.path).listSnapshots().count == 1)
            #expect(try !attachments.control(disk.path).status().isPaused)
            try disk.write(8)
        }
    }

    @Test func aHoldThatEndsBeforeAllHaveSwitchedFails() throws {
        let disks = try ["a", "b"].map { try AttachedHere($0, in: folder, attachments: attachments) }
        let error = #expect(throws: AgentError.self) {
            // Over at once: no switch is as fast.
            try SnapshotCoordinator(attachments: attachments).snapshot(
                disks.map(\.path), freezeDeadlineMilliseconds: 0)
        }
        #expect(error?.code == .expired, "\(String(describing: error))")
        for disk in disks { #expect(try attachments.control(disk.path).listSnapshots().count == 1) }
    }
}
