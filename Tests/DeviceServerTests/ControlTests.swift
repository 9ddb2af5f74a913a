import AgentAPI
import BlockIO
@testable import DeviceServer
import DiskImage
import LinuxSystem
import TestSupport
import Testing

@Suite struct ControlTests {
    @Test func statusCountsRequests() throws {
        let disk = try ServedDisk()
        try disk.write(1, at: 0, count: 8192)
        _ = try disk.read(at: 0, count: 4096)
        let status = try disk.client().status()
        #expect(status.folder == disk.path)
        #expect(status.pid == ownProcess())
        #expect(status.sizeBytes == 16 << 20)
        #expect(status.clusterBytes == 64 << 10)
        #expect(status.deltas == 1)
        #expect((status.writeRequests, status.writeBytes) == (1, 8192))
        #expect((status.readRequests, status.readBytes) == (1, 4096))
    }

    @Test func aSnapshotIsPreparedThenSwitchedTo() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        try disk.write(1, at: 0, count: 4096)
        try client.perform(.prepareSnapshot)
        let (guid, _) = try client.commitSnapshot()
        try disk.write(2, at: 0, count: 4096)
        let snapshots = try client.listSnapshots()
        #expect(snapshots.count == 2)
        #expect(snapshots.first?.guid == guid)
        #expect(try client.status().deltas == 2)
        var calls = 0
        try client.perform(.deleteSnapshot(guid: guid)) { _, _ in
            calls += 1
            return true
        }
        #expect(try client.listSnapshots().count == 1)
        #expect(try disk.read(at: 0, count: 4096).allSatisfy { $0 == 2 })
    }

    @Test func whatIsPreparedEndsWithItsConnection() throws {
        let disk = try ServedDisk()
        var client: ControlClient? = try disk.client()
        try client?.perform(.prepareSnapshot)
        let error = #expect(throws: ControlError.self) { try client?.perform(.prepareSnapshot) }
        #expect(error?.code == ControlError.invalid)
        client = nil
        // The server notices the end of the connection in its own time; another prepare waits its turn or is refused.
        let other = try disk.client()
        try untilDone { try other.perform(.prepareSnapshot) }
        try other.perform(.abandonSnapshot)
        #expect(try other.listSnapshots().count == 1)
        #expect(throws: ControlError.self) { try other.commitSnapshot() }
    }

    @Test func trackersBelongToTheirConnection() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        #expect(try client.status().isTracked == false)
        let tracker = try client.startTracking(granuleBytes: 4096)
        #expect(try disk.client().status().isTracked == true)
        try disk.write(1, at: 8192, count: 512)
        try disk.write(1, at: 1 << 20, count: 8192)
        #expect(try client.countDirty(tracker: tracker) == 12288)
        let first = try client.takeDirty(tracker: tracker, offset: 0, count: 16 << 20, limit: 1)
        #expect(first.runs == [Extent(offset: 8192, count: 4096)])
        let rest = try client.takeDirty(tracker: tracker, offset: first.coveredTo, count: 8 << 20, limit: 100)
        #expect(rest.runs == [Extent(offset: 1 << 20, count: 8192)])
        #expect(try client.countDirty(tracker: tracker) == 0)
        let stranger = try disk.client()
        #expect(throws: ControlError.self) { try stranger.countDirty(tracker: tracker) }
        try client.perform(.stopTracking(tracker: tracker))
        #expect(throws: ControlError.self) { try client.countDirty(tracker: tracker) }
        #expect(try stranger.status().isTracked == false)
    }

    @Test(
        arguments: [
            .takeDirty(tracker: 1, offset: .max, count: 2, limit: 1),
            .takeDirty(tracker: 1, offset: 0, count: 1, limit: 0),
            .takeDirty(tracker: 9, offset: 0, count: 1, limit: 1), .startTracking(granuleBytes: 3), .commitSnapshot,
            .abandonSnapshot, .deleteSnapshot(guid: "nonsense"), .grow(bytes: 1), .grow(bytes: .max), .release,
        ] as [ControlRequest])
    func senselessRequestsAreRefusedAndTheConnectionGoesOn(_ request: ControlRequest) throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        _ = try client.startTracking(granuleBytes: 4096)
        #expect(throws: ControlError.self) { try client.call(request) }
        #expect(try client.status().sizeBytes == 16 << 20)
    }

    @Test func growingIsSeenByNewConnections() throws {
        let disk = try ServedDisk()
        try disk.client().perform(.grow(bytes: 32 << 20))
        #expect(try disk.server.byteCount() == 32 << 20)
        try disk.write(1, at: 31 << 20, count: 4096)
    }

    @Test func shutdownClosesTheDiskBeforeItsAnswer() throws {
        let pipe = try Pipe()
        let signal = Signaller(try OwnedDescriptor(duplicating: pipe.writing.number))
        let disk = try ServedDisk(onShutdown: { signal.send() })
        try disk.write(4, at: 0, count: 4096)
        try disk.client().perform(.shutdown)
        #expect(throws: DeviceFault.self) { try disk.write(5, at: 0, count: 4096) }
        let again = try Disk.open(disk.path, in: LinuxFileSystem())
        #expect(!again.repairedOnOpen)
        try again.close()
        var entries = [PollEntry(pipe.reading.number, .readable)]
        #expect(try pollDescriptors(&entries, deadlineMilliseconds: 10_000) == 1)
    }

    @Test func tooManyConnectionsAreToldSo() throws {
        let disk = try ServedDisk()
        var clients: [ControlClient] = []
        for _ in 0..<ControlListener.connectionsMax {
            let client = try disk.client()
            _ = try client.status()
            clients.append(client)
        }
        let error = #expect(throws: ControlError.self) { try disk.client().status() }
        #expect(error.map { [ControlError.busy, ControlError.unreachable].contains($0.code) } == true)
        #expect(try clients[0].status().sizeBytes == 16 << 20)
    }

    @Test func garbageEndsOnlyItsOwnConnection() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        let channel = LineChannel(adopting: try UnixSocket.connect(to: disk.socket))
        try channel.send("what?")
        guard case .failed(ControlError.protocolViolation, _)? = try channel.receive(ControlReply.self) else {
            Issue.record("garbage was not refused")
            return
        }
        #expect(try channel.receive(ControlReply.self) == nil)
        #expect(try client.status().sizeBytes == 16 << 20)
    }
}

/// Tells by a descriptor that it was called.
private final class Signaller: Sendable {
    private let descriptor: OwnedDescriptor
    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    func send() { try? descriptor.writeAll([0]) }
}

/// Repeats what the other side has first to make room for; each try is a round trip to it.
private func untilDone(_ body: () throws -> Void) throws {
    for _ in 0..<10_000 {
        if (try? body()) != nil { return }
    }
    try body()
}
