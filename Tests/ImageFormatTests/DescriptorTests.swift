import ImageFormat
import Testing

/// The worked example of the format's description: two snapshots.
let exampleDescriptor = """
    <?xml version="1.0"?>
    <Parallels_disk_image>
      <Disk_Parameters>
        <Disk_size>614400</Disk_size>
        <Cylinders>1200</Cylinders>
        <Heads>16</Heads>
        <Sectors>32</Sectors>
        <Padding>0</Padding>
      </Disk_Parameters>
      <StorageData>
        <Storage>
          <Start>0</Start>
          <End>614400</End>
          <Blocksize>2048</Blocksize>
          <Image>
            <GUID>{e71d2fad-1032-442b-a1da-5c34b73fd93b}</GUID>
            <Type>Compressed</Type>
            <File>root.hdd</File>
          </Image>
          <Image>
            <GUID>{99999999-1111-1111-1111-111111111111}</GUID>
            <Type>Compressed</Type>
            <File>root.hdd.{0a9cd57c-7932-4549-82f4-a3cffa50966a}</File>
          </Image>
          <Image>
            <GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
            <Type>Compressed</Type>
            <File>root.hdd.{cb6c8820-4e95-4d39-b5d0-efd300a8ec7c}</File>
          </Image>
        </Storage>
      </StorageData>
      <Snapshots>
        <TopGUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</TopGUID>
        <Shot>
          <GUID>{e71d2fad-1032-442b-a1da-5c34b73fd93b}</GUID>
          <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID>
        </Shot>
        <Shot>
          <GUID>{99999999-1111-1111-1111-111111111111}</GUID>
          <ParentGUID>{e71d2fad-1032-442b-a1da-5c34b73fd93b}</ParentGUID>
          <Temporary/>
        </Shot>
        <Shot>
          <GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID>
          <ParentGUID>{99999999-1111-1111-1111-111111111111}</ParentGUID>
        </Shot>
      </Snapshots>
    </Parallels_disk_image>

    """

@Suite struct DescriptorTests {
    let base = GUID("{e71d2fad-1032-442b-a1da-5c34b73fd93b}")
    let middle = GUID("{99999999-1111-1111-1111-111111111111}")

    private func parse(_ text: String) throws -> DiskDescriptor { try DiskDescriptor(parsing: Array(text.utf8)) }
    private func text(_ descriptor: DiskDescriptor) -> String { String(decoding: descriptor.encode(), as: UTF8.self) }

    @Test("the worked example is read, and written back byte for byte") func example() throws {
        let descriptor = try parse(exampleDescriptor)
        #expect(descriptor.sectorCount == 614_400 && descriptor.clusterSectors == 2048)
        #expect(descriptor.images.count == 3 && descriptor.top == .top)
        #expect(try descriptor.chain(to: .top).map(\.guid) == [base, middle, .top])
        #expect(descriptor.shot(try #require(middle))?.isTemporary == true)
        #expect(text(descriptor) == exampleDescriptor)
    }

    @Test("what is unknown survives a change in its place") func unknown() throws {
        let extended =
            exampleDescriptor
            .replacing(
                "<Parallels_disk_image>", with: "<!-- kept --><Parallels_disk_image Version=\"1.0\" a='&lt;&quot;'>"
            )
            .replacing("<Padding>0</Padding>", with: "<Padding>0</Padding><UID>{u}</UID><Name>a &amp; b</Name>")
            .replacing(
                "<Type>Compressed</Type>\n        <File>root.hdd<",
                with: "<Type>Compressed</Type><New><Deep x=\"1\"/>mixed <b>text</b></New><File>root.hdd<"
            )
            .replacing("</Snapshots>", with: "</Snapshots>\n<Encryption><Engine/></Encryption>")
        var descriptor = try parse(extended)
        let fresh = try #require(GUID("{33333333-1111-1111-1111-111111111111}"))
        try descriptor.addSnapshot(fresh, newTopFile: "root.hdd.new")
        let result = text(descriptor)
        for part in [
            "<!-- kept -->", "Version=\"1.0\" a=\"&lt;&quot;\"", "<UID>{u}</UID>", "<Name>a &amp; b</Name>",
            "<New><Deep x=\"1\"/>mixed <b>text</b></New>", "<Engine/>",
        ] { #expect(result.contains(part), "\(part)") }
        #expect(try parse(result) == descriptor)
        let order = ["<Padding>", "<UID>", "<Storage>", "<New>", "root.hdd.new", "<Snapshots>", "<Encryption>"]
        let places = order.map { result.firstRange(of: $0)?.lowerBound }
        #expect(places == places.sorted { ($0 ?? result.endIndex) < ($1 ?? result.endIndex) })
    }

    @Test("text between elements stays one text when an element between goes") func mixedContent() throws {
        var descriptor = try parse(
            exampleDescriptor.replacing("<Image>", with: "x<Image>").replacing("</Image>", with: "</Image>y"))
        _ = try descriptor.mergeIntoParent(.top)
        #expect(try parse(text(descriptor)) == descriptor)
    }

    @Test("a snapshot renames the top and begins a new one") func snapshot() throws {
        var descriptor = DiskDescriptor(
            sectorCount: 40960, cylinders: 80, heads: 16, clusterSectors: 2048, file: "root.hds")
        let one = try #require(GUID("{11111111-1111-1111-1111-111111111111}"))
        try descriptor.addSnapshot(one, newTopFile: "root.hds.{x}")
        #expect(descriptor.image(one)?.file == "root.hds")
        #expect(descriptor.image(.top)?.file == "root.hds.{x}")
        #expect(descriptor.shot(.top)?.parent == one && descriptor.shot(one)?.parent == GUID.none)
        #expect(throws: ImageError.self) { try descriptor.addSnapshot(one, newTopFile: "y") }
        #expect(throws: ImageError.self) { try descriptor.addSnapshot(.top, newTopFile: "y") }
        #expect(try parse(text(descriptor)) == descriptor)
    }

    @Test("a merge keeps the child's name and the parent's file") func merge() throws {
        var descriptor = try parse(exampleDescriptor)
        let middle = try #require(middle)
        #expect(try descriptor.mergeIntoParent(middle) == "root.hdd.{0a9cd57c-7932-4549-82f4-a3cffa50966a}")
        #expect(descriptor.images.map(\.guid) == [middle, .top])
        #expect(descriptor.image(middle)?.file == "root.hdd")
        #expect(descriptor.shot(.top)?.parent == middle && descriptor.shot(middle)?.parent == GUID.none)
        #expect(try descriptor.mergeIntoParent(.top) == "root.hdd.{cb6c8820-4e95-4d39-b5d0-efd300a8ec7c}")
        #expect(descriptor.images.map(\.file) == ["root.hdd"] && descriptor.top == .top)
        #expect(throws: ImageError.self) { try descriptor.mergeIntoParent(.top) }
        #expect(try parse(text(descriptor)) == descriptor)
    }

    @Test("a switch drops the top, and states with children stay") func switchTop() throws {
        var descriptor = try parse(exampleDescriptor)
        let base = try #require(base)
        let middle = try #require(middle)
        #expect(throws: ImageError.self) { try descriptor.switchTop(to: middle, newTopFile: "n") }
        #expect(throws: ImageError.self) { try descriptor.switchTop(to: .top, newTopFile: "n") }
        #expect(
            try descriptor.switchTop(to: base, newTopFile: "n") == "root.hdd.{cb6c8820-4e95-4d39-b5d0-efd300a8ec7c}")
        #expect(descriptor.children(of: base) == [middle, .top])
        #expect(throws: ImageError.self) { try descriptor.mergeIntoParent(.top) }
        #expect(throws: ImageError.self) { try descriptor.removeLeaf(base) }
        #expect(throws: ImageError.self) { try descriptor.removeLeaf(.top) }
        #expect(try descriptor.removeLeaf(middle) == "root.hdd.{0a9cd57c-7932-4549-82f4-a3cffa50966a}")
        #expect(try descriptor.removeLeaf(.top) == "n")
        #expect(descriptor.images.map(\.file) == ["root.hdd"] && descriptor.top == .top)
        #expect(try parse(text(descriptor)) == descriptor)
    }

    @Test("older software's name for the top is replaced on a change") func oldTop() throws {
        let old = exampleDescriptor.replacing(
            "{5fbaabe3-6958-40ff-92a7-860e329aab41}", with: "{ABCDEF00-6958-40ff-92a7-860e329aab41}")
        var descriptor = try parse(old)
        #expect(descriptor.top.description == "{abcdef00-6958-40ff-92a7-860e329aab41}")
        try descriptor.addSnapshot(try #require(GUID("{33333333-1111-1111-1111-111111111111}")), newTopFile: "n")
        #expect(
            descriptor.top == .top && !text(descriptor).contains("abcdef00") && !text(descriptor).contains("ABCDEF00"))
    }

    @Test("a single image without a shot gets one; a missing TopGUID is found") func oldLayouts() throws {
        let one = """
            <P><Disk_Parameters><Disk_size>0x9000</Disk_size></Disk_Parameters>
            <StorageData><Storage><Blocksize>2048</Blocksize>
            <Image><GUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}</GUID><Type>Plain</Type><File>/a/b</File></Image>
            </Storage></StorageData><Snapshots/></P>
            """
        let descriptor = try parse(one)
        #expect(descriptor.sectorCount == 0x9000 && descriptor.shots.count == 1 && descriptor.kind(of: .top) == .raw)
        #expect(try parse(text(descriptor)) == descriptor)
    }

    @Test(
        "what is no whole tree is refused",
        arguments: [
            ("<Disk_Parameters>", "<Other>"), ("<Blocksize>2048</Blocksize>", ""), ("<Blocksize>2048", "<Blocksize>63"),
            ("<Blocksize>2048", "<Blocksize>"), ("<Blocksize>2048", "<Blocksize>-1"), ("<File>root.hdd</File>", ""),
            ("<GUID>{99999999", "<GUID>{9999999"),
            ("<GUID>{99999999-1111-1111-1111-111111111111}", "<GUID>{e71d2fad-1032-442b-a1da-5c34b73fd93b}"),
            (
                "<ParentGUID>{00000000-0000-0000-0000-000000000000}",
                "<ParentGUID>{99999999-1111-1111-1111-111111111111}"
            ),
            (
                "<ParentGUID>{99999999-1111-1111-1111-111111111111}",
                "<ParentGUID>{88888888-1111-1111-1111-111111111111}"
            ),
            ("<TopGUID>{5fbaabe3", "<TopGUID>{6fbaabe3"), ("<Disk_size>614400", "<Disk_size>0xffffffffffffffff"),
            ("<Blocksize>2048</Blocksize>", "<Blocksize>2048</Blocksize><Preallocated>x</Preallocated>"),
            ("<Type>Compressed", "<Type>Encrypted"), ("</Storage>", "</Storage><Storage/>"),
            ("<TopGUID>{5fbaabe3-6958-40ff-92a7-860e329aab41}", "<TopGUID>{99999999-1111-1111-1111-111111111111}"),
        ])
    func refused(old: String, new: String) throws {
        var changed = exampleDescriptor
        let range = try #require(changed.firstRange(of: old))
        changed.replaceSubrange(range, with: new)
        if old == "<Disk_Parameters>" { changed = changed.replacing("</Disk_Parameters>", with: "</Other>") }
        let error = #expect(throws: ImageError.self) { try parse(changed) }
        #expect(error?.message.isEmpty == false)
    }

    @Test("document types, deep nests and large files are refused") func hostile() {
        let bomb = """
            <!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><P>&b;</P>
            """
        var error = #expect(throws: ImageError.self) { try parse(bomb) }
        #expect(error?.code == .unsupported)
        error = #expect(throws: ImageError.self) { try parse("<!DOCTYPE x SYSTEM \"file:///etc/passwd\"><x/>") }
        #expect(error?.code == .unsupported)
        error = #expect(throws: ImageError.self) { try parse(String(repeating: "<a>", count: 100)) }
        #expect(error?.code == .unsupported)
        error = #expect(throws: ImageError.self) { try parse(String(repeating: " ", count: 5 << 20)) }
        #expect(error?.code == .unsupported)
        error = #expect(throws: ImageError.self) { try parse("") }
        #expect(error?.code == .truncated)
        error = #expect(throws: ImageError.self) { try parse("<a>&unknown;</a>") }
        #expect(error?.code == .corrupt)
    }

    @Test("a chain of thousands of states is checked in time") func longChain() throws {
        var images = ""
        var shots = ""
        let count = 6000
        func guid(_ n: Int) -> String {
            let digits = String(n, radix: 16)
            return "{" + String(repeating: "0", count: 35 - digits.count) + "-" + digits + "}"
        }
        for n in 1...count {
            images += "<Image><GUID>\(guid(n))</GUID><File>f\(n)</File></Image>"
            shots +=
                "<Shot><GUID>\(guid(n))</GUID>"
                + "<ParentGUID>\(n == 1 ? GUID.none.description : guid(n - 1))</ParentGUID></Shot>"
        }
        let text =
            "<P><Disk_Parameters/><StorageData><Storage><Blocksize>64</Blocksize>\(images)</Storage></StorageData>"
            + "<Snapshots><TopGUID>\(guid(count))</TopGUID>\(shots)</Snapshots></P>"
        var descriptor = try parse(text)
        #expect(try descriptor.chain(to: descriptor.top).count == count)
        #expect(throws: ImageError.self) {
            try descriptor.addSnapshot(try #require(GUID("{33333333-1111-1111-1111-111111111111}")), newTopFile: "n")
        }
    }

    @Test("every truncation and every flipped bit is an error or a whole tree") func bitFlips() {
        let bytes = Array(exampleDescriptor.utf8)
        for count in stride(from: 0, to: bytes.count - 30, by: 1) {
            #expect(throws: ImageError.self) { try DiskDescriptor(parsing: Array(bytes[..<count])) }
        }
        for bit in 0..<bytes.count * 8 {
            var flipped = bytes
            flipped[bit / 8] ^= 1 << (bit % 8)
            guard let descriptor = try? DiskDescriptor(parsing: flipped) else { continue }
            #expect(descriptor.image(descriptor.top) != nil)
            // What is accepted is also written so that it is accepted.
            #expect((try? DiskDescriptor(parsing: descriptor.encode())) == descriptor)
        }
    }

    @Test("file names are compared by their bytes, and what a folder has for other things is no image's name")
    func names() throws {
        let (one, other) = ("caf\u{e9}.hds", "cafe\u{301}.hds")
        #expect(one == other)
        var descriptor = DiskDescriptor(
            sectorCount: 40960, cylinders: 80, heads: 16, clusterSectors: 2048, file: one)
        let alike = DiskDescriptor(sectorCount: 40960, cylinders: 80, heads: 16, clusterSectors: 2048, file: other)
        #expect(descriptor.images != alike.images && Set(descriptor.images + alike.images).count == 2)
        let guid = try #require(GUID("{11111111-1111-1111-1111-111111111111}"))
        try descriptor.addSnapshot(guid, newTopFile: other)
        #expect(try DiskDescriptor(parsing: descriptor.encode()).images.count == 2)
        let next = try #require(GUID("{22222222-1111-1111-1111-111111111111}"))
        #expect(throws: ImageError.self) { try descriptor.addSnapshot(next, newTopFile: other) }
        for name in ["DiskDescriptor.xml", "DiskDescriptor.xml.served", "godwit.leftovers.tmp"] {
            #expect(!DiskDescriptor.isPlainName(name))
        }
    }

    @Test("GUIDs compare without case and are written in lower case") func guids() {
        #expect(GUID("{5FBAABE3-6958-40FF-92A7-860E329AAB41}") == .top)
        #expect(GUID(typed: "5fbaabe3-6958-40ff-92a7-860e329aab41") == .top)
        for text in [
            "", "{}", "5fbaabe3-6958-40ff-92a7-860e329aab41", "{5fbaabe3-6958-40ff-92a7-860e329aab4}",
            "{5fbaabe3-6958-40ff-92a7-860e329aab4/}",
        ] {
            #expect(GUID(text) == nil)
        }
        #expect(
            GUID(random: [UInt8](repeating: 0xFF, count: 16))?.description == "{ffffffff-ffff-4fff-bfff-ffffffffffff}")
        #expect(GUID(random: [1]) == nil)
    }
}
