import BlockIO
import Migration
import TestSupport
import Testing

@testable import AgentCore

/// What a start of the host finds to be finished.
@Suite struct MigrationRegisterTests {
    @Test("one note that can't be read keeps nobody from the others")
    func unreadableNote() throws {
        let fs = SimulatedFileSystem()
        for folder in ["/disks", "/disks/one", "/register"] { try fs.createFolder(folder) }
        // A folder can't be read as a file.
        try fs.createFolder("/register/0123456789abcdef")
        let register = MigrationRegister(folder: "/register", fs: fs)
        for disk in ["/disks/one", "/disks/not-mounted-yet"] {
            try fs.replaceContents(of: "/register/\(disk.utf8.count)", with: [UInt8](disk.utf8) + [10])
        }
        let noted = try register.all()
        #expect(Set(noted.disks) == ["/disks/one", "/disks/not-mounted-yet"])
        #expect(noted.failures.count == 1)
        let service = MigrationService(fs: fs, register: register)
        let open = try service.unfinished(Configuration())
        #expect(open.disks == ["/disks/one"])
        #expect(open.failures.first?.message.contains("0123456789abcdef") == true)
    }

    @Test(
        "the partition that was mounted is known by its device",
        arguments: [("/dev/nbd0p1", 1), ("/dev/ploop12p3", 3), ("/dev/loop4p15", 15), (nil, nil)] as [(String?, Int?)])
    func partition(path: String?, number: Int?) {
        let device = BlockDevice(way: .nbd, path: "/dev/nbd0", partitionPath: path, fuse: nil)
        #expect(device.partition == number)
    }
}
