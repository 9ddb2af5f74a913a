import AgentAPI
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// The two ends of a stream socket.
private struct SocketPair: ~Copyable {
    var near: OwnedDescriptor
    var far: OwnedDescriptor
}

private func connectedPair() throws -> SocketPair {
    let folder = try TemporaryFolder()
    let path = folder.file("s")
    let listener = try UnixSocket.listen(at: path)
    let near = try UnixSocket.connect(to: path)
    return SocketPair(near: near, far: try UnixSocket.accept(from: listener.number))
}

@Suite struct LineChannelTests {
    private static let requests: [ControlRequest] = [
        .status, .prepareSnapshot, .commitSnapshot, .abandonSnapshot, .deleteSnapshot(guid: "{a \"quoted\"\n guid}"),
        .listSnapshots, .grow(bytes: .max), .startTracking(granuleBytes: 65536),
        .takeDirty(tracker: 1, offset: 0, count: .max, limit: 7), .countDirty(tracker: 2), .stopTracking(tracker: 3),
        .pause(deadlineMilliseconds: 100), .resume, .release, .shutdown,
    ]

    @Test func everyRequestArrivesAsItWasSent() throws {
        let pair = try connectedPair()
        let sender = LineChannel(adopting: pair.near)
        let receiver = LineChannel(adopting: pair.far)
        for request in Self.requests { try sender.send(request) }
        for request in Self.requests { #expect(try receiver.receive(ControlRequest.self) == request) }
        sender.end()
        #expect(try receiver.receive(ControlRequest.self) == nil)
        #expect(receiver.isHungUp)
    }

    @Test(.timeLimit(.minutes(1))) func whatNobodyMissesIsNotWaitedFor() throws {
        let pair = try connectedPair()
        let sender = LineChannel(adopting: pair.near)
        let receiver = LineChannel(adopting: pair.far)
        let count = 100_000
        for number in 0..<count { try sender.offer(ControlReply.progress(done: UInt64(number), total: 1)) }
        let last = try OwnThread(name: "last") { try? sender.send(ControlReply.done) }
        var received = 0
        while try receiver.receive(ControlReply.self) != .done { received += 1 }
        last.join()
        #expect(received > 0 && received < count)
    }

    @Test(.timeLimit(.minutes(1))) func aClientThatTakesNothingIsGivenUp() throws {
        let pair = try connectedPair()
        let sender = LineChannel(adopting: pair.near)
        sender.limitSending(seconds: 1)
        let receiver = LineChannel(adopting: pair.far)
        #expect(throws: ControlError.self) { while true { try sender.send(ControlReply.done) } }
        receiver.end()
    }

    @Test func everyReplyArrivesAsItWasSent() throws {
        let pair = try connectedPair()
        let sender = LineChannel(adopting: pair.near)
        let receiver = LineChannel(adopting: pair.far)
        let runs = (0..<1000).map { Extent(offset: $0 << 40, count: 65536) }
        let replies: [ControlReply] = [
            .done, .failed(code: "x", message: "y\nz"), .progress(done: 1, total: .max),
            .status(DeviceStatus(folder: "/d", pid: 1, sizeBytes: 2, clusterBytes: 3, deltas: 4)),
            .snapshot(guid: "{g}", switchNanoseconds: 5), .tracker(6), .dirty(runs: runs, coveredTo: 7), .dirtyBytes(8),
        ]
        for reply in replies {
            try sender.send(reply)
            #expect(try receiver.receive(ControlReply.self) == reply)
        }
    }

    @Test func aLineMayArriveInPieces() throws {
        let pair = try connectedPair()
        let receiver = LineChannel(adopting: pair.far)
        let near = pair.near
        let thread = try OwnThread(name: "pieces") { [descriptor = near.number] in
            for byte in Array("{\"status\":{}}\n{\"resume\":{}}\n".utf8) {
                let copy = try? OwnedDescriptor(duplicating: descriptor)
                try? copy?.writeAll([byte])
            }
        }
        #expect(try receiver.receive(ControlRequest.self) == .status)
        #expect(try receiver.receive(ControlRequest.self) == .resume)
        thread.join()
    }

    @Test(arguments: ["{\"nothing\":{}}\n", "[]\n", "\n", "{\"grow\":{\"bytes\":-1}}\n", "\u{0}\n", "{\"status\":{}"])
    func whatIsNotARequestIsRefused(_ text: String) throws {
        let pair = try connectedPair()
        try pair.near.writeAll(Array(text.utf8))
        UnixSocket.end(pair.near.number)
        let receiver = LineChannel(adopting: pair.far)
        let error = #expect(throws: ControlError.self) { try receiver.receive(ControlRequest.self) }
        #expect(error?.code == ControlError.protocolViolation)
    }

    @Test func aLineWithoutEndIsRefusedBeforeItFillsTheMemory() throws {
        let pair = try connectedPair()
        let receiver = LineChannel(adopting: pair.far)
        let sender = LineChannel(adopting: pair.near)
        let thread = try OwnThread(name: "flood") {
            let text = String(repeating: "x", count: 3 * LineChannel.lineBytesMax)
            try? sender.send(text)
        }
        let error = #expect(throws: ControlError.self) { try receiver.receive(ControlRequest.self) }
        #expect(error?.code == ControlError.protocolViolation)
        receiver.end()
        thread.join()
    }

    @Test func aClientWithoutServerIsToldSo() throws {
        let folder = try TemporaryFolder()
        let error = #expect(throws: ControlError.self) { try ControlClient.connect(folder.file("none")) }
        #expect(error?.code == ControlError.unreachable)
    }
}
