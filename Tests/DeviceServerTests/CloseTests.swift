import AgentAPI
@testable import DeviceServer
import DiskImage
import LinuxSystem
import TestSupport
import Testing

@Suite struct CloseTests {
    @Test func aFailureOfTheCloseIsToldToWhoeverAsks() throws {
        let folder = try TemporaryFolder()
        let disk = StubDisk(onClose: { () throws(DiskError) in
            throw DiskError(.io, "the medium failed", path: "/stub")
        })
        let owner = try DiskOwner.start(disk, controlSocket: folder.file("control.sock")) {}
        let client = try ControlClient.connect(folder.file("control.sock"))
        for request in [ControlRequest.shutdown, .shutdown, .shutdownForced] {
            let error = #expect(throws: ControlError.self) { try client.perform(request) }
            #expect(error?.code == "io", "\(String(describing: error))")
        }
        #expect(throws: DiskError.self) { try owner.stop() }
    }

    @Test func aConnectedClientKeepsTheDiskOpen() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        let other = disk.server.connected(ownProcess())
        #expect(try client.status().clients?.map(\.pid) == [ownProcess()])
        let error = #expect(throws: ControlError.self) { try client.perform(.shutdown) }
        #expect(error?.code == ControlError.busy)
        #expect(error?.message.contains("process \(ownProcess())") == true, "\(String(describing: error))")
        try disk.write(1, at: 0, count: 4096)
        disk.server.disconnected(other)
        #expect(try client.status().clients == [])
        try client.perform(.shutdown)
        #expect(throws: DeviceFault.self) { try disk.write(1, at: 0, count: 4096) }
    }

    @Test func forceCutsClientsOff() throws {
        let disk = try ServedDisk()
        let client = try disk.client()
        _ = disk.server.connected(-1)
        try client.perform(.shutdownForced)
        #expect(throws: DeviceFault.self) { try disk.read(at: 0, count: 512) }
    }
}
