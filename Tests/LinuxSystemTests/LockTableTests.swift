import LinuxSystem
import Testing

@Suite struct LockTableTests {
    private let text = """
        1: FLOCK  ADVISORY  WRITE 4711 fe:01:131077 0 EOF
        1: -> FLOCK  ADVISORY  READ 4712 fe:01:131077 0 EOF
        2: POSIX  ADVISORY  WRITE 4713 fe:01:131077 0 EOF
        3: FLOCK  ADVISORY  READ 4714 00:2a:131077 0 EOF
        4: FLOCK  ADVISORY  READ -1 fe:10001:9 0 EOF
        5: FLOCK
        6: FLOCK  ADVISORY  READ x fe:01 0 EOF
        """

    @Test("locks of whole files that are held are found by device and inode")
    func parsing() {
        let table = LockTable(parsing: text)
        #expect(table.entries.map(\.process) == [4711, 4714, -1])
        #expect(table.entries.map(\.isExclusive) == [true, false, false])
        #expect(table.holders(device: 0xfe01, inode: 131_077).map(\.process) == [4711])
        // A minor number beyond eight bits.
        #expect(table.holders(device: 0x1000_fe01, inode: 9).map(\.process) == [-1])
        #expect(table.holders(device: 0xfe01, inode: 5).isEmpty)
        // The device is under another number there: the inode decides.
        #expect(table.holders(device: 0x33, inode: 131_077).map(\.process) == [4711, 4714])
    }

    @Test("a process is named by its program")
    func names() {
        let own = NamedProcess(ownProcess())
        #expect(!own.name.isEmpty)
        #expect(own.description == "process \(own.process) (\(own.name))")
        #expect(NamedProcess(process: 0, name: "").description.contains("can't be seen"))
    }
}
